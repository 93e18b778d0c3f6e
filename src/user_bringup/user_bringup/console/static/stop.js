// The emergency stop of a page. It goes by a request of its own, not by the websocket that shows things: it is heard also
// while the page is connected anew, waits behind nothing, and is said again until it was answered.
"use strict";
(() => {
  const RETRY_MS = 300, PATIENCE_MS = 20000, SAY_AFTER_MS = 1500;
  let pressed = false;

  const say = (message, type, timeout) => window.Quasar && Quasar.Notify.create({ message, type, timeout, position: "bottom" });

  async function press() {
    if (pressed) return;
    pressed = true;
    const beganMs = performance.now();
    let said = false;
    try {
      for (;;) {
        try {
          const reply = await fetch("/emergency_stop", { method: "POST", keepalive: true, signal: AbortSignal.timeout(PATIENCE_MS) });
          if (reply.status === 401 || reply.status === 403) { say("EMERGENCY STOP: this page may not any more; load it anew", "negative", 0); return; }
          if (reply.ok) {
            const answer = await reply.json();
            say(`emergency stop: ${answer.text}`, answer.ok ? "warning" : "negative", 10000);
            return;
          }
        } catch (error) {
          console.warn("emergency stop", error);
          if (window.emitEvent) emitEvent("console_stop"); // the connection that is there already
        }
        if (!said && performance.now() - beganMs > SAY_AFTER_MS) {
          said = true;
          say("EMERGENCY STOP: the console does not answer. It is asked again and again; use the button at the robot.", "negative", 0);
        }
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    } finally { pressed = false; }
  }

  // Not in a field that is typed in: there the key closes a list, or takes back what was typed.
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.repeat && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) press();
  }, true);
  window.userEmergencyStop = press;
})();
