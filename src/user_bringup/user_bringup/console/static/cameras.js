// Cameras of a page. One websocket brings the newest images of all that are seen, together; they are drawn together, in
// one frame, and that is told: no more comes than is drawn, and nothing to a page that nobody sees.
"use strict";
(() => {
  const seen = new Map(); // the elements that are in view, and the topic of each
  const read = new TextDecoder();
  const state = (window.userCameras = { messages: 0, size: 0, images: 0, drawn: 0, said: 0 });
  let socket = null, last = "[]", asked = false, drawing = Promise.resolve(), retryMs = 500;

  const say = (what) => { if (socket && socket.readyState === WebSocket.OPEN) { socket.send(JSON.stringify(what)); state.said++; } };

  function connect() {
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/cameras`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { retryMs = 500; last = "[]"; lost(false); tell(); };
    socket.onmessage = (event) => {
      state.messages++; state.size += event.data.byteLength;
      const from = socket;
      drawing = drawing.then(() => draw(event.data)).catch(console.error).then(() => { if (from === socket) say({ drawn: 1 }); });
    };
    socket.onclose = () => { socket = null; lost(true); setTimeout(tell, retryMs); retryMs = Math.min(8000, 2 * retryMs); };
  }

  // An image that is not renewed any more must not look alive.
  const lost = (is) => { for (const element of document.querySelectorAll("user-camera")) element.toggleAttribute("data-lost", is); };

  // Say which cameras are seen, where that has changed.
  function tell() {
    asked = false;
    const topics = document.hidden ? [] : [...new Set(seen.values())].sort();
    const text = JSON.stringify(topics);
    if (!socket) { if (topics.length) connect(); return; }
    if (text !== last && socket.readyState === WebSocket.OPEN) { last = text; say({ show: topics }); }
  }
  const tellSoon = () => { if (!asked) { asked = true; queueMicrotask(tell); } };

  async function draw(data) {
    const length = new DataView(data).getUint32(0), jobs = [];
    let at = 4 + length;
    for (const [topic, size] of JSON.parse(read.decode(new Uint8Array(data, 4, length)))) {
      const image = new Blob([new Uint8Array(data, at, size)], { type: "image/jpeg" });
      at += size; state.images++;
      for (const [element, of] of seen) if (of === topic) jobs.push(createImageBitmap(image).then((bitmap) => [element, bitmap]));
    }
    const made = await Promise.all(jobs);
    if (made.length) await new Promise(requestAnimationFrame);
    for (const [element, bitmap] of made) {
      const canvas = element.firstElementChild;
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) { canvas.width = bitmap.width; canvas.height = bitmap.height; }
      canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
      element.images++;
    }
    state.drawn++;
  }

  const watching = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && target.isConnected) seen.set(target, target.dataset.topic); else seen.delete(target);
    }
    tellSoon();
  });
  document.addEventListener("visibilitychange", tellSoon);

  customElements.define("user-camera", class extends HTMLElement {
    images = 0;
    connectedCallback() {
      if (!this.firstElementChild) this.append(Object.assign(document.createElement("canvas"), { width: 1, height: 1 }));
      watching.observe(this);
    }
    disconnectedCallback() { watching.unobserve(this); seen.delete(this); tellSoon(); }
  });
})();
