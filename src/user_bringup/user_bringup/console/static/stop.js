// The emergency stop of a page. It goes by a request of its own, not by the websocket that shows things: it is heard also
// while the page is connected anew, waits behind nothing, and is said again until it was answered. A request that hangs
// (a network that went away) is not waited for: soon another one goes, and the websocket says it, too.
"use strict";
(() => {
  const RETRY_MS = 300, PATIENCE_MS = 20000, LATE_MS = 1500;
  const MOST = 3; // requests that wait: a browser has six connections for a host
  let waiting = 0, stoppedMs = -1; // when what was answered had been sent

  const say = (message, type, timeout) => window.Quasar && Quasar.Notify.create({ message, type, timeout, position: "bottom" });

  async function press(again = false) {
    if (waiting >= MOST) return;
    waiting++;
    const beganMs = performance.now();
    let bySocket = again;
    const trySocket = () => { // the connection that is there already; once, for it keeps what it cannot send
      if (!bySocket && window.emitEvent) emitEvent("console_stop");
      bySocket = true;
    };
    const late = setTimeout(() => {
      if (!again) say("EMERGENCY STOP: no answer yet. It is asked again and again; use the button at the robot.", "negative", 0);
      trySocket();
      if (waiting === 1) press(true);
    }, LATE_MS);
    try {
      while (stoppedMs < beganMs) {
        const sentMs = performance.now();
        try {
          const reply = await fetch("/emergency_stop", { method: "POST", keepalive: true, signal: AbortSignal.timeout?.(PATIENCE_MS) });
          if (reply.status === 401 || reply.status === 403) { say("EMERGENCY STOP: this page may not any more; load it anew", "negative", 0); return; }
          if (reply.ok) {
            const answer = await reply.json();
            stoppedMs = Math.max(stoppedMs, sentMs);
            say(`emergency stop: ${answer.text}`, answer.ok ? "warning" : "negative", 10000);
            return;
          }
        } catch (error) {
          console.warn("emergency stop", error);
          trySocket();
        }
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    } finally { clearTimeout(late); waiting--; }
  }

  // Not in a field that is typed in: there the key closes a list, or takes back what was typed.
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.repeat && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) press();
  }, true);
  window.userEmergencyStop = () => press();
})();
