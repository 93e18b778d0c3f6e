// Drives a robot from this page. Whatever moves (keys, a gamepad, a finger, the tilt of a tablet, controllers of
// a headset) ends up as six axes x y z rx ry rz, -1 to 1, in the robot's base frame (x forward, y left, z up), and a
// dead-man switch. They are sent 30 times a second, and at once when a person does something.
"use strict";
(() => {
  const PERIOD_MS = 33, SILENT_MS = 200, DEADBAND = 0.08, XR_FULL_M = 0.15, XR_FULL_RAD = 0.6, TILT_FULL = 30;
  const SEAT_TAKEN = 4409; // the code of the console for "another one drives this robot"
  const KEYS = {
    KeyW: [0, 1], KeyS: [0, -1], KeyA: [1, 1], KeyD: [1, -1], KeyQ: [2, 1], KeyE: [2, -1],
    KeyU: [3, 1], KeyO: [3, -1], KeyI: [4, 1], KeyK: [4, -1], KeyJ: [5, 1], KeyL: [5, -1],
  };
  const ACTS = { KeyG: "toggle", Digit1: "success", Digit2: "failure", Digit0: "abort" };
  const state = {
    socket: null, robot: null, number: 0, keys: new Set(), held: { key: false, button: false, pad: false, xr: false, tilt: false },
    axes: { touch: [0, 0, 0, 0, 0, 0], pad: [0, 0, 0, 0, 0, 0], tilt: [0, 0, 0, 0, 0, 0], xr: [0, 0, 0, 0, 0, 0] },
    acts: [], once: {}, waitingFor: "", askedBy: "", mustRelease: false, answered: 0, rtt: [], pressed: {}, engaged: false, message: "", tiltReference: null, xr: null, xrFrame: 0,
  };
  const clip = (v) => Math.max(-1, Math.min(1, v));
  const dead = (v) => (Math.abs(v) < DEADBAND ? 0 : v);

  function axes() {
    const sum = [0, 0, 0, 0, 0, 0];
    for (const code of state.keys) { const [axis, sign] = KEYS[code]; sum[axis] += sign; }
    for (const source of Object.values(state.axes)) source.forEach((v, i) => { sum[i] += v; });
    return sum.map(clip);
  }
  const held = () => Object.values(state.held).some(Boolean);

  function send() {
    const socket = state.socket;
    if (!socket || socket.readyState !== WebSocket.OPEN || socket.bufferedAmount > 4096) return;
    gamepad();
    // A headset that was taken off brings no more frames: what it said last must not drive on.
    if (state.held.xr && performance.now() - state.xrFrame > SILENT_MS) { state.held.xr = false; state.axes.xr.fill(0); }
    socket.send(JSON.stringify({
      number: state.number++, axes: axes(), held: held() && !document.hidden, acts: state.acts.splice(0),
      sent_ms: performance.now(), ...state.once,
    }));
    state.once = {};
  }
  const act = (name) => { state.acts.push(name); send(); };

  function show() {
    const line = document.getElementById("drive-status");
    if (!line) return;
    const open = state.socket && state.socket.readyState === WebSocket.OPEN;
    const silent = open && state.answered && performance.now() - state.answered > SILENT_MS;
    const sorted = [...state.rtt].sort((a, b) => a - b);
    const p50 = sorted.length ? sorted[sorted.length >> 1] : NaN;
    const wants = state.waitingFor ? `waiting for ${state.waitingFor}` : state.mustRelease ? "let go of the switch, and hold it anew"
      : state.engaged ? "YOU DRIVE" : "hold the switch to drive";
    let text = open ? (silent ? "no answer for 0.2 s: you do not drive" : wants) : (state.message || "not connected");
    if (open && sorted.length) text += `, round trip ${p50.toFixed(0)} ms`;
    if (line.textContent !== text) line.textContent = text; // what has not changed is not drawn again
    const engaged = String(Boolean(open && state.engaged && !silent));
    if (line.dataset.engaged !== engaged) line.dataset.engaged = engaged;
    const asked = document.getElementById("drive-asked");
    asked.hidden = !(open && state.askedBy);
    document.getElementById("drive-asked-by").textContent = `${state.askedBy} asks for the controls`;
    document.getElementById("drive-ask").hidden = !(!open && state.refused);
    const bars = document.querySelectorAll("[data-axis]");
    const values = axes();
    bars.forEach((bar) => {
      const value = String(values[Number(bar.dataset.axis)]);
      if (bar.dataset.value !== value) { bar.dataset.value = value; bar.style.setProperty("--v", value); }
    });
  }

  // `ask`: wait for the controls when another one has them.
  function connect(robot, ask = false) {
    leave();
    if (document.activeElement) document.activeElement.blur();
    state.refused = false; state.waitingFor = state.askedBy = "";
    state.robot = robot; state.number = 0; state.answered = 0; state.rtt = []; state.message = "connecting";
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/drive?robot=${encodeURIComponent(robot)}&ask=${ask}`);
    state.socket = socket;
    socket.onmessage = (event) => {
      const said = JSON.parse(event.data);
      state.answered = performance.now();
      if (said.sent_ms) { state.rtt.push(state.answered - said.sent_ms); if (state.rtt.length > 60) state.rtt.shift(); }
      state.engaged = Boolean(said.engaged); state.mustRelease = Boolean(said.must_release);
      state.waitingFor = said.waiting_for || ""; state.askedBy = said.asked_by || "";
    };
    socket.onclose = (event) => {
      if (state.socket !== socket) return;
      letGo(); state.engaged = false; state.socket = null;
      state.message = event.reason || "the connection has ended";
      state.refused = event.code === SEAT_TAKEN;
      show();
    };
  }
  function leave() {
    const socket = state.socket; state.socket = null; state.engaged = false;
    if (socket) socket.close();
    state.message = "not connected"; letGo(); show();
  }
  function letGo() {
    state.keys.clear();
    for (const name of Object.keys(state.held)) state.held[name] = false;
    for (const source of Object.values(state.axes)) source.fill(0);
  }

  // --- keys
  const typing = (event) => /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey;
  addEventListener("keydown", (event) => {
    if (!state.socket || typing(event)) return;
    if (event.code === "Space") { // before a button that has the focus takes it for a click
      state.held.key = true; event.preventDefault(); event.stopImmediatePropagation(); send();
    }
    else if (event.code in KEYS) { state.keys.add(event.code); event.preventDefault(); send(); }
    else if (event.code in ACTS && !event.repeat) { act(ACTS[event.code]); event.preventDefault(); }
  }, true);
  addEventListener("keyup", (event) => {
    if (event.code === "Space") {
      state.held.key = false; send();
      if (state.socket) { event.preventDefault(); event.stopImmediatePropagation(); }
    } else if (state.keys.delete(event.code)) send();
  }, true);
  addEventListener("blur", () => { const was = held(); letGo(); send(); if (was && window.userStopOnBlur) window.userEmergencyStop(); });
  document.addEventListener("visibilitychange", () => { if (document.hidden) { letGo(); send(); } });
  addEventListener("pagehide", leave);

  // --- gamepad (standard mapping): left stick x y, right stick z rz, triggers rx, right shoulder is the switch
  function gamepad() {
    const pads = navigator.getGamepads ? [...navigator.getGamepads()].filter(Boolean) : [];
    const target = state.axes.pad; target.fill(0); state.held.pad = false;
    for (const pad of pads) {
      if (pad.axes.length < 4) continue;
      target[0] += dead(-pad.axes[1]); target[1] += dead(-pad.axes[0]);
      target[2] += dead(-pad.axes[3]); target[5] += dead(-pad.axes[2]);
      const button = (i) => (pad.buttons[i] ? pad.buttons[i].value : 0);
      target[3] += dead(button(6) - button(7));
      state.held.pad = state.held.pad || button(5) > 0.5;
      const once = { 0: "close", 2: "open", 3: "success", 1: "failure", 8: "abort" };
      for (const [i, name] of Object.entries(once)) {
        const down = button(Number(i)) > 0.5, id = `${pad.index}:${i}`;
        if (down && !state.pressed[id]) state.acts.push(name);
        state.pressed[id] = down;
      }
    }
  }

  // --- fingers: two pads; touching one holds the switch
  function pad(element) {
    const places = element.dataset.pad.split(",").map(Number); // axes of up and of left
    let pointer = null;
    const knob = element.querySelector(".knob");
    const move = (event) => {
      const box = element.getBoundingClientRect(), half = Math.min(box.width, box.height) / 2;
      const right = clip((event.clientX - box.left - box.width / 2) / half);
      const down = clip((event.clientY - box.top - box.height / 2) / half);
      state.axes.touch[places[0]] = dead(-down); state.axes.touch[places[1]] = dead(-right);
      knob.style.transform = `translate(${right * 40}%, ${down * 40}%)`;
    };
    const end = (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null; state.axes.touch[places[0]] = 0; state.axes.touch[places[1]] = 0;
      delete element.dataset.down; knob.style.transform = "";
      state.held.button = Boolean(document.querySelector("[data-down]")); send();
    };
    element.addEventListener("pointerdown", (event) => {
      if (!state.socket) return;
      pointer = event.pointerId; element.setPointerCapture(pointer); element.dataset.down = "1";
      state.held.button = true; move(event); send(); event.preventDefault();
    });
    element.addEventListener("pointermove", (event) => { if (event.pointerId === pointer) move(event); });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(name, end);
  }

  // --- tilt of a phone or tablet while a button is held; the tilt when it was pressed is the middle
  function tilt(element) {
    const listen = (event) => {
      if (!state.held.tilt || event.beta === null) return;
      if (!state.tiltReference) state.tiltReference = [event.beta, event.gamma, event.alpha];
      const turn = ((state.tiltReference[2] - event.alpha + 540) % 360) - 180;
      state.axes.tilt[0] = dead(clip((state.tiltReference[0] - event.beta) / TILT_FULL));
      state.axes.tilt[1] = dead(clip((state.tiltReference[1] - event.gamma) / TILT_FULL));
      state.axes.tilt[5] = dead(clip(-turn / TILT_FULL));
    };
    element.addEventListener("pointerdown", async (event) => {
      event.preventDefault();
      const ask = window.DeviceOrientationEvent && DeviceOrientationEvent.requestPermission;
      if (ask) { try { await DeviceOrientationEvent.requestPermission(); } catch (error) { state.message = String(error); } }
      state.tiltReference = null; state.held.tilt = true;
      addEventListener("deviceorientation", listen); send();
    });
    const end = () => { state.held.tilt = false; state.axes.tilt.fill(0); removeEventListener("deviceorientation", listen); send(); };
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) element.addEventListener(name, end);
  }

  // --- headset (WebXR): the grip button is switch and clutch, the trigger moves the gripper
  async function headset() {
    if (!navigator.xr || !(await navigator.xr.isSessionSupported("immersive-vr"))) { state.message = "no headset here"; show(); return; }
    const session = await navigator.xr.requestSession("immersive-vr");
    const canvas = document.createElement("canvas"), gl = canvas.getContext("webgl", { xrCompatible: true });
    await session.updateRenderState({ baseLayer: new XRWebGLLayer(session, gl) });
    const space = await session.requestReferenceSpace("local");
    state.xr = session;
    let reference = null, hand = null;
    const down = {}; // keys that are held, by hand
    session.addEventListener("selectstart", () => act("toggle"));
    session.addEventListener("end", () => { state.held.xr = false; state.axes.xr.fill(0); state.xr = null; send(); });
    const frame = (time, data) => {
      if (state.xr !== session) return;
      session.requestAnimationFrame(frame);
      state.xrFrame = performance.now();
      // Keys of the standard mapping ("xr-standard"): 4 is A or X, 5 is B or Y, 3 the stick when it is pressed.
      for (const one of session.inputSources) {
        const buttons = one.gamepad && one.gamepad.mapping === "xr-standard" ? one.gamepad.buttons : [];
        for (const [i, name] of Object.entries({ 4: "success", 5: "failure", 3: "abort" })) {
          const is = Boolean(buttons[i] && buttons[i].pressed), id = `${one.handedness}:${i}`;
          if (is && !down[id]) act(name);
          down[id] = is;
        }
      }
      // Either hand: the one whose grip is held, until it lets go. A hand that is tracked by camera has no buttons.
      const holds = (one) => one && one.gripSpace && one.gamepad && one.gamepad.buttons[1] && one.gamepad.buttons[1].pressed;
      if (!holds(hand)) { hand = [...session.inputSources].find(holds) || null; reference = null; }
      const pressed = Boolean(hand), pose = hand && data.getPose(hand.gripSpace, space);
      if (!pressed || !pose) { if (state.held.xr) { state.held.xr = false; state.axes.xr.fill(0); send(); } reference = null; return; }
      const p = pose.transform.position, q = pose.transform.orientation;
      if (!reference) reference = { p: { x: p.x, y: p.y, z: p.z }, q: { x: q.x, y: q.y, z: q.z, w: q.w } };
      state.held.xr = true;
      const turn = rotation(reference.q, q);
      // WebXR: x right, y up, z towards the person; REP-103: x forward, y left, z up.
      state.axes.xr = [-(p.z - reference.p.z) / XR_FULL_M, -(p.x - reference.p.x) / XR_FULL_M, (p.y - reference.p.y) / XR_FULL_M,
        -turn[2] / XR_FULL_RAD, -turn[0] / XR_FULL_RAD, turn[1] / XR_FULL_RAD].map((v) => dead(clip(v)));
    };
    session.requestAnimationFrame(frame);
  }
  // The rotation vector of b after a, in the frame of both.
  function rotation(a, b) {
    const w = b.w * a.w + b.x * a.x + b.y * a.y + b.z * a.z;
    const x = -b.w * a.x + b.x * a.w - b.y * a.z + b.z * a.y;
    const y = -b.w * a.y + b.x * a.z + b.y * a.w - b.z * a.x;
    const z = -b.w * a.z - b.x * a.y + b.y * a.x + b.z * a.w;
    const sign = w < 0 ? -1 : 1, size = Math.hypot(x, y, z);
    const scale = size < 1e-9 ? 2 * sign : (2 * Math.atan2(size, Math.abs(w)) * sign) / size;
    return [x * scale, y * scale, z * scale];
  }

  // Timers of a page behind others are slowed down; such a page lets go (`held` is false while it is hidden).
  setInterval(() => { send(); show(); }, PERIOD_MS);
  window.userDrive = {
    connect, leave, act, headset, rotation, state,
    ask: () => connect(state.robot, true),
    handOver: () => { letGo(); state.once.hand_over = true; send(); },
    keep: () => { state.once.keep = true; send(); },
    ready: () => { document.querySelectorAll("[data-pad]").forEach(pad); document.querySelectorAll("[data-tilt]").forEach(tilt); },
  };
})();
