"use strict";
(function () {
  const traces = JSON.parse(document.getElementById("traces").textContent);
  if (!traces.length) return;
  const at = (id) => document.getElementById(id);
  const canvas = at("canvas"), slider = at("slider"), which = at("which"), detail = at("detail");
  let trace = traces[0], steps = [], now = 0, timer = null;

  // Yellow, green, blue: light enough for dark text, apart in brightness for every kind of colour vision.
  const anchors = [[253, 231, 180], [140, 200, 190], [84, 160, 220]];
  function colour(confidence) {
    const place = Math.max(0, Math.min(1, confidence)) * 2, low = Math.min(1, Math.floor(place)), part = place - low;
    return "rgb(" + anchors[low].map((c, i) => Math.round(c + part * (anchors[low + 1][i] - c))).join(",") + ")";
  }

  function choose(number) {
    trace = traces[number];
    steps = [...new Set(trace.records.map((r) => r.step))].sort((a, b) => a - b);
    slider.max = steps.length;
    at("prompt").textContent = trace.prompt_tokens.join(" ");
    show(0);
  }

  function describe(r) {
    let text = "“" + r.token + "” at step " + r.step + ", confidence " + r.confidence.toFixed(3);
    if (r.runner_up !== null && r.runner_up !== undefined) text += "; runner-up “" + r.runner_up + "” " + Number(r.runner_up_confidence).toFixed(3);
    return text;
  }

  function show(step) {
    now = Math.max(0, Math.min(steps.length, step));
    slider.value = now;
    const limit = now ? steps[now - 1] : -1, known = new Map();
    trace.records.forEach((r) => { if (r.step <= limit) known.set(r.position, r); });
    const made = [];
    trace.tokens.forEach((_, position) => {
      if (trace.block_length && position && position % trace.block_length === 0) {
        const edge = document.createElement("span");
        edge.className = "edge"; edge.title = "block border";
        made.push(edge);
      }
      const span = document.createElement("span"), r = known.get(position);
      span.className = "token";
      if (r) {
        span.textContent = r.token;
        span.style.background = colour(r.confidence);
        if (r.step === limit) span.classList.add("fresh");
        span.title = describe(r);
        span.tabIndex = 0;
        span.addEventListener("mouseenter", () => { detail.textContent = describe(r); });
        span.addEventListener("focus", () => { detail.textContent = describe(r); });
      } else {
        span.textContent = trace.mask; span.classList.add("masked"); span.setAttribute("aria-label", "masked");
      }
      made.push(span);
    });
    canvas.replaceChildren(...made);
    const last = trace.records.filter((r) => r.step <= limit).reduce((a, r) => Math.max(a, r.nfe), 0);
    at("status").textContent = trace.model + " model, step " + now + " of " + steps.length + ", " + last + " passes (NFE), " + known.size + " of " + trace.tokens.length + " tokens revealed";
  }

  function stop() { clearInterval(timer); timer = null; at("play").textContent = "▶ play"; }
  function play() {
    if (timer) { stop(); return; }
    if (now >= steps.length) show(0);
    at("play").textContent = "⏸ pause";
    timer = setInterval(() => { if (now >= steps.length) stop(); else show(now + 1); }, 350);
  }

  traces.forEach((t, i) => {
    const option = document.createElement("option");
    option.value = i; option.textContent = t.title;
    which.append(option);
  });
  which.addEventListener("change", () => { stop(); choose(Number(which.value)); });
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  const actions = { first: () => show(0), back: () => show(now - 1), next: () => show(now + 1), last: () => show(steps.length) };
  Object.keys(actions).forEach((id) => at(id).addEventListener("click", () => { stop(); actions[id](); }));
  at("play").addEventListener("click", play);
  document.addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: actions.back, ArrowRight: actions.next, Home: actions.first, End: actions.last };
    const inside = at("denoiser").contains(document.activeElement);
    const own = ["SELECT", "INPUT", "BUTTON"].includes(document.activeElement.tagName);
    if (!inside && document.activeElement !== document.body) return;
    if (keys[event.key] && !own && inside) { event.preventDefault(); stop(); keys[event.key](); }
    else if (event.key === " " && !own && inside) { event.preventDefault(); play(); }
    else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && document.activeElement === document.body) { stop(); keys[event.key](); }
  });
  choose(0);
})();
