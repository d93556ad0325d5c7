// The denoising player. First what can be computed without a page, then the page.
"use strict";
(function () {
  // State after k frames (0: what was given): for each position [token, confidence, runner-up, its confidence, frame] or null.
  function stateAt(trace, k) {
    const shown = new Array(trace.n).fill(null), fresh = new Set();
    let nfe = 0;
    for (const [position, token] of trace.given) shown[position] = [token, null, null, null, 0];
    trace.frames.slice(0, k).forEach((frame, i) => {
      if (frame.nfe !== null) nfe = frame.nfe;
      fresh.clear();
      for (const [position, token, confidence, runner, second] of frame.set) {
        // A token that is null has gone back to a mask.
        shown[position] = token === null ? null : [token, confidence, runner, second, i + 1];
        fresh.add(position);
      }
    });
    return { shown, fresh, nfe, count: shown.filter((entry) => entry && entry[4]).length };
  }

  // Blocks as lists of positions, with the frame after which each one is there.
  function blocksOf(trace) {
    const size = trace.block || trace.n || 1, made = [];
    for (let start = 0; start < trace.n; start += size) {
      const end = Math.min(start + size, trace.n);
      const first = trace.frames.findIndex((frame) => frame.set.some(([p]) => p >= start));
      made.push({ start, end, born: trace.grows && start ? (first < 0 ? Infinity : first) : 0 });
    }
    return made;
  }

  function mix(scale, share) {
    const place = Math.max(0, Math.min(1, share)) * (scale.length - 1), low = Math.min(scale.length - 2, Math.floor(place));
    const channels = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
    const from = channels(scale[low]), to = channels(scale[low + 1]);
    return from.map((c, i) => Math.round(c + (place - low) * (to[i] - c)));
  }

  // Black or white, whichever has more contrast (WCAG's relative luminance; they meet at 0.179).
  function inkOn(rgb) {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  // White space has to be seen where it is a token of its own or part of one.
  function visible(token) {
    if (token === "") return "∅";
    return token.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +$|^ | $/g, (s) => "␣".repeat(s.length));
  }

  const share = (value) => value === null ? "not recorded" : value > 0 && value < 0.0005 ? "< 0.001" : value.toFixed(3);
  const pure = { stateAt, blocksOf, mix, inkOn, visible, share };
  if (typeof document === "undefined") { module.exports = pure; return; }

  const data = JSON.parse(document.getElementById("traces").textContent), traces = data.traces;
  const at = (id) => document.getElementById(id);
  const box = at("denoiser"), canvas = at("canvas"), slider = at("slider"), which = at("which"), status = at("status"), detail = at("detail");
  let trace, blocks = [], tokens = [], state, now = 0, picked = 0, hasPicked = false, timer = null;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function choose(number) {
    trace = traces[number];
    blocks = blocksOf(trace);
    tokens = [];
    picked = 0;
    hasPicked = false;
    slider.max = trace.frames.length;
    at("prompt").textContent = trace.prompt.map(visible).join(" ") || "(none)";
    canvas.replaceChildren(...blocks.map((block, i) => {
      const group = element("div", trace.block ? "block bordered" : "block");
      const name = "block " + (i + 1) + " of " + blocks.length;
      if (trace.block) { group.dataset.name = name; group.setAttribute("role", "group"); group.setAttribute("aria-label", name); }
      for (let position = block.start; position < block.end; position++) {
        // Made once and changed in place, so that the keyboard's focus stays where it is.
        const token = element("button", "token");
        token.type = "button";
        token.append(element("b"), element("i"));
        token.addEventListener("mouseenter", () => tell(position));
        token.addEventListener("focus", () => pick(position));
        token.addEventListener("click", () => pick(position));
        tokens.push(token);
        group.append(token);
      }
      block.element = group;
      return group;
    }));
    show(0);
  }

  function show(k) {
    now = Math.max(0, Math.min(trace.frames.length, k));
    state = stateAt(trace, now);
    slider.value = now;
    slider.setAttribute("aria-valuetext", "step " + now + " of " + trace.frames.length);
    blocks.forEach((block) => { block.element.hidden = block.born > now; });
    tokens.forEach((token, position) => {
      const entry = state.shown[position], fresh = state.fresh.has(position);
      token.className = "token" + (entry ? "" : " masked") + (fresh ? " fresh" : "") + (hasPicked && position === picked ? " picked" : "");
      token.tabIndex = position === picked ? 0 : -1;
      token.firstChild.textContent = entry ? visible(entry[0]) : trace.mask;
      const known = entry && entry[1] !== null, rgb = known ? mix(data.scale, entry[1]) : null;
      token.style.background = rgb ? "rgb(" + rgb.join(",") + ")" : "";
      token.style.color = rgb ? inkOn(rgb) : "";
      token.lastChild.style.width = known ? 100 * Math.max(0, Math.min(1, entry[1])) + "%" : "0";
      token.setAttribute("aria-label", describe(position).join(", "));
    });
    const active = blocks.findIndex((block) => [...state.fresh].some((p) => p >= block.start && p < block.end));
    status.textContent = [
      trace.model + " model", trace.sampler, "step " + now + " of " + trace.frames.length, "NFE " + (now && trace.frames[now - 1].nfe === null ? "not recorded" : state.nfe),
      state.count + " of " + (trace.n - trace.given.length) + " tokens revealed", trace.block && active >= 0 ? "block " + (active + 1) + " of " + blocks.length : "",
    ].filter(Boolean).join(" · ");
    tell(picked);
  }

  function describe(position) {
    const entry = state.shown[position], place = "position " + (position + 1);
    if (!entry) return [place, "masked"];
    if (!entry[4]) return [place, "“" + visible(entry[0]) + "”", "given"];
    const said = [place, "“" + visible(entry[0]) + "”", "confidence " + share(entry[1])];
    if (entry[2] !== null) said.push("runner-up “" + visible(entry[2]) + "” " + share(entry[3]));
    return said.concat("revealed at step " + entry[4]);
  }

  function tell(position) {
    const entry = state.shown[position];
    if (!tokens.length) return;
    const place = "Position " + (position + 1) + (trace.block ? ", block " + (Math.floor(position / trace.block) + 1) : "");
    const odds = element("div", "odds");
    const row = (name, value) => {
      const meter = element("span", "meter"), fill = element("i");
      fill.style.width = 100 * (value || 0) + "%";
      meter.append(fill);
      odds.append(element("span", "", name), meter, element("span", "", share(value)));
    };
    if (entry && entry[4]) row("“" + visible(entry[0]) + "”", entry[1]);
    if (entry && entry[2] !== null) row("“" + visible(entry[2]) + "” (runner-up)", entry[3]);
    detail.replaceChildren(element("p", "small", place + (!entry ? ": still masked" : entry[4] ? ", revealed at step " + entry[4] : ", given: “" + visible(entry[0]) + "”")), odds);
  }

  function pick(position) {
    tokens[picked].classList.remove("picked");
    tokens[picked].tabIndex = -1;
    picked = position;
    hasPicked = true;
    tokens[picked].classList.add("picked");
    tokens[picked].tabIndex = 0;
    tell(position);
  }

  function walk(by) {
    const onToken = tokens.includes(document.activeElement);
    const last = blocks.reduce((end, block) => block.element.hidden ? end : block.end, 0) - 1;
    if (last >= 0) tokens[Math.max(0, Math.min(last, picked + (onToken ? by : 0)))].focus();
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    at("play").classList.remove("playing");
    at("play").setAttribute("aria-label", "Play");
    // While it plays, a screen reader would only stammer.
    status.setAttribute("aria-live", "polite");
  }
  function tick() {
    if (now >= trace.frames.length) { stop(); return; }
    timer = setTimeout(() => { show(now + 1); tick(); }, Number(at("speed").value));
  }
  function play() {
    if (timer) { stop(); return; }
    if (now >= trace.frames.length) show(0);
    at("play").classList.add("playing");
    at("play").setAttribute("aria-label", "Pause");
    status.setAttribute("aria-live", "off");
    tick();
  }

  const go = { first: () => show(0), back: () => show(now - 1), next: () => show(now + 1), last: () => show(trace.frames.length) };
  Object.keys(go).forEach((id) => at(id).addEventListener("click", () => { stop(); go[id](); }));
  at("play").addEventListener("click", play);
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  which.addEventListener("change", () => { stop(); choose(Number(which.value)); });
  canvas.addEventListener("mouseleave", () => tell(picked));

  const keys = { ArrowLeft: go.back, ArrowRight: go.next, Home: go.first, End: go.last };
  document.addEventListener("keydown", (event) => {
    // Alt and an arrow is the browser's way back: not ours.
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const focus = document.activeElement, inside = box.contains(focus), key = event.key;
    if (!inside) {
      // With the focus nowhere, left and right still step while the player is in sight; they scroll nothing here.
      const area = box.getBoundingClientRect(), seen = area.top < innerHeight && area.bottom > 0;
      if (focus === document.body && seen && (key === "ArrowLeft" || key === "ArrowRight")) { event.preventDefault(); stop(); keys[key](); }
      return;
    }
    if (focus.tagName === "SELECT") return;
    const isControl = focus.tagName === "BUTTON" && !focus.classList.contains("token");
    if (keys[key]) { event.preventDefault(); stop(); keys[key](); }
    else if (key === " " && !isControl) { event.preventDefault(); play(); }
    else if ((key === "ArrowUp" || key === "ArrowDown") && focus !== slider && !isControl) { event.preventDefault(); walk(key === "ArrowDown" ? 1 : -1); }
  });

  // On paper the end says most.
  addEventListener("beforeprint", () => { stop(); show(trace.frames.length); });

  traces.forEach((entry, i) => {
    const option = element("option", "", entry.title + " (" + entry.model + ")");
    option.value = i;
    which.append(option);
  });
  box.hidden = false;
  choose(0);
})();
