// Pictures of the same scene, compared: see `comparison`.

const COMPARE_ZOOM = 32;
const COMPARE_GRIP = 16; // how near to the wipe a pointer takes hold of it, CSS pixels

/**
 * A wipe between two of several pictures, and all of them small below, with one zoom for all.
 * `width` and `height` are the most that the stage takes, in CSS pixels; it follows its place.
 * `show(pictures)` takes `[{ label, note, part }]`, part as in `paint`, or null while there is
 * none yet; zoom, wipe and what is left and right stay as they are.
 */
function comparison({ left = 0, right = 1, width = 900, height = 0, name = "pictures" } = {}) {
  const wanted = { left, right };
  const chosen = { left, right }; // the same, as far as there are so many pictures
  const view = { zoom: 1, x: 0.5, y: 0.5 }; // the middle of what is seen, in shares
  let pictures = [];
  let share = 50; // of the stage that shows the left picture, percent
  let waiting = 0;
  const thumbs = [];

  const canvas = tag("canvas", { role: "img" });
  const corners = { left: corner("left"), right: corner("right") };
  const line = tag("div", { class: "odebc-compare-line", "aria-hidden": "true" });
  const stage = tag(
    "div",
    {
      class: "odebc-compare-stage",
      role: "group",
      tabindex: 0,
      [OURS]: "",
      "aria-label": `${name}: plus and minus zoom, arrows move what is seen`,
    },
    canvas,
    line,
    corners.left,
    corners.right,
  );
  const wipeId = fresh("wipe");
  const wipe = tag("input", { type: "range", id: wipeId, min: 0, max: 100, step: 1 });
  const closer = button("+", () => zoomBy(2), { "aria-label": "closer" });
  const farther = button("−", () => zoomBy(1 / 2), { "aria-label": "farther" });
  const exact = button("1:1", () => zoomTo(exactZoom()), {
    "aria-label": "one pixel of the picture for each of the screen",
  });
  const whole = button("whole", () => zoomTo(1), { "aria-label": "the whole picture" });
  const controls = tag(
    "div",
    { class: "odebc-compare-controls" },
    tag("label", { for: wipeId }, "wipe"),
    wipe,
    farther,
    closer,
    exact,
    whole,
  );
  const list = tag("div", { class: "odebc-compare-thumbs" });
  const node = tag("div", { class: "odebc-compare" }, stage, controls, list);

  function corner(side) {
    const attributes = { class: `odebc-compare-corner ${side}`, "aria-hidden": "true" };
    return tag("span", attributes);
  }

  /** The first picture that is there tells the form of all. */
  function form() {
    const there = [pictures[chosen.left], pictures[chosen.right], ...pictures];
    return there.find((picture) => picture?.part)?.part;
  }

  function finest() {
    return Math.max(1, ...pictures.map((picture) => picture.part?.width ?? 1));
  }

  /** The zoom at which a pixel of the finest picture is one of the screen. */
  function exactZoom() {
    return finest() / Math.max(canvas.width, 1);
  }

  function said(picture) {
    return [picture?.label, picture?.note].filter(Boolean).join(", ");
  }

  function show(others) {
    pictures = others;
    while (thumbs.length > pictures.length) thumbs.pop().node.remove();
    while (thumbs.length < pictures.length) {
      thumbs.push(thumb(thumbs.length));
      list.append(thumbs.at(-1).node);
    }
    tell();
    plan();
  }

  function thumb(i) {
    const picture = tag("canvas", { role: "img" });
    const [label, note] = [tag("b"), tag("span", { class: "note" })];
    const puts = ["left", "right"].map((side) => button(side, () => put(side, i)));
    picture.addEventListener("click", (event) => put(event.shiftKey ? "right" : "left", i));
    const caption = tag("figcaption", {}, label, note, tag("div", {}, ...puts));
    return { node: tag("figure", {}, picture, caption), picture, label, note, puts };
  }

  /** Put a picture on a side; the one that stood there goes to the other where it was. */
  function put(side, i) {
    const other = side === "left" ? "right" : "left";
    if (chosen[other] === i) wanted[other] = chosen[side];
    wanted[side] = i;
    tell();
    plan();
  }

  function settle() {
    const last = Math.max(0, pictures.length - 1);
    chosen.left = Math.min(wanted.left, last);
    chosen.right = Math.min(wanted.right, last);
    if (chosen.left === chosen.right) chosen.left = chosen.right ? 0 : Math.min(1, last);
  }

  /** Everything that is said in words. */
  function tell() {
    settle();
    for (const side of ["left", "right"]) {
      corners[side].textContent = said(pictures[chosen[side]]);
    }
    const [a, b] = [pictures[chosen.left], pictures[chosen.right]];
    canvas.setAttribute("aria-label", `left: ${said(a)}; right: ${said(b)}`);
    wipe.setAttribute("aria-valuetext", `${share} % ${a?.label ?? ""}, then ${b?.label ?? ""}`);
    thumbs.forEach(({ picture, label, note, puts, node: figure }, i) => {
      const text = said(pictures[i]);
      label.textContent = pictures[i].label;
      note.textContent = pictures[i].note ?? "";
      picture.setAttribute("aria-label", text);
      ["left", "right"].forEach((side, j) => {
        puts[j].setAttribute("aria-pressed", chosen[side] === i);
        puts[j].setAttribute("aria-label", `${pictures[i].label} to the ${side}`);
        figure.classList.toggle(side, chosen[side] === i);
      });
    });
    node.dataset.left = chosen.left;
    node.dataset.right = chosen.right;
  }

  /** Draw with the next frame, however often something has changed till then. */
  function plan() {
    if (!waiting) waiting = requestAnimationFrame(draw);
  }

  function draw() {
    waiting = 0;
    const part = form();
    const room = node.clientWidth;
    const alone = pictures.length < 2; // nothing to compare it with
    stage.hidden = controls.hidden = !part;
    line.hidden = corners.right.hidden = list.hidden = alone;
    if (!part || !room) return;
    const aspect = part.width / part.height;
    const most = height || Math.max(220, 0.5 * window.innerHeight);
    fit(canvas, Math.min(room, width, most * aspect), aspect);
    const small = Math.max(72, Math.min(132, (room - 8 * thumbs.length) / thumbs.length));
    thumbs.forEach(({ picture }, i) => {
      fit(picture, Math.min(small, 132 * aspect), aspect);
      look(picture, pictures[i].part, 0);
    });
    keepInside();
    drawStage();
    closer.disabled = view.zoom >= COMPARE_ZOOM;
    farther.disabled = whole.disabled = view.zoom <= 1;
    exact.disabled = exactZoom() <= 1;
    stage.classList.toggle("zoomed", view.zoom > 1);
    node.dataset.zoom = Number(view.zoom.toFixed(3));
  }

  function drawStage() {
    const at = Math.round((share / 100) * canvas.width);
    look(canvas, pictures[chosen.left]?.part, 0);
    look(canvas, pictures[chosen.right]?.part, at);
    line.style.left = `${share}%`;
  }

  /** A canvas with a pixel for each of the screen. */
  function fit(of, wide, aspect) {
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(wide * ratio), Math.round((wide / aspect) * ratio)];
    if (of.width === w && of.height === h) return;
    of.width = w;
    of.height = h;
    of.style.width = `${w / ratio}px`;
    of.style.height = `${h / ratio}px`;
    if (of !== canvas) return;
    Object.assign(stage.style, { width: of.style.width, height: of.style.height });
    controls.style.maxWidth = `max(20rem, ${of.style.width})`;
  }

  /** What is seen of a picture, from a column of the canvas on. */
  function look(on, part, from) {
    const context = on.getContext("2d");
    const [w, h] = [on.width, on.height];
    context.clearRect(from, 0, w - from, h);
    if (!part || from >= w) return;
    const [wide, high] = [part.width / view.zoom, part.height / view.zoom];
    const x = part.x + view.x * part.width - wide / 2;
    const y = part.y + view.y * part.height - high / 2;
    context.imageSmoothingEnabled = wide > w; // only where there are more pixels than fit
    context.imageSmoothingQuality = "high";
    context.save();
    context.beginPath();
    context.rect(from, 0, w - from, h);
    context.clip();
    context.drawImage(part.image, x, y, wide, high, 0, 0, w, h);
    context.restore();
  }

  function keepInside() {
    const half = 0.5 / view.zoom;
    for (const axis of ["x", "y"]) {
      view[axis] = Math.min(Math.max(view[axis], half), 1 - half);
    }
  }

  /** Zoom 1 is the whole picture; x and y are the middle of what is seen, from 0 to 1. */
  function zoomTo(zoom, x = view.x, y = view.y) {
    view.zoom = Math.min(Math.max(zoom, 1), COMPARE_ZOOM);
    Object.assign(view, { x, y });
    keepInside();
    plan();
  }

  /** What lies under the point (shares of the stage) stays there. */
  function zoomBy(factor, px = 0.5, py = 0.5) {
    const zoom = Math.min(Math.max(view.zoom * factor, 1), COMPARE_ZOOM);
    const moved = 1 / view.zoom - 1 / zoom;
    zoomTo(zoom, view.x + (px - 0.5) * moved, view.y + (py - 0.5) * moved);
  }

  function wipeTo(percents) {
    share = Math.min(Math.max(Math.round(percents), 0), 100);
    wipe.value = share;
    tell();
    if (canvas.width) drawStage();
  }

  /** Where the pointer is, in shares of the stage. */
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    return { x, y: (event.clientY - box.top) / box.height, box };
  }

  let held = null; // "wipe", or where the last move has ended

  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const { x, box } = place(event);
    const near = Math.abs(x - share / 100) * box.width < COMPARE_GRIP;
    held = near || view.zoom <= 1 ? "wipe" : place(event);
    stage.setPointerCapture(event.pointerId);
    if (held === "wipe") wipeTo(100 * x);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) return;
    const now = place(event);
    if (held === "wipe") return wipeTo(100 * now.x);
    const x = view.x - (now.x - held.x) / view.zoom;
    const y = view.y - (now.y - held.y) / view.zoom;
    held = now;
    zoomTo(view.zoom, x, y);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => (held = null));
  }
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey)) return;
      event.preventDefault();
      const { x, y } = place(event);
      const turned = event.deltaY || event.deltaX;
      zoomBy(2 ** Math.max(-1, Math.min(1, -turned / 200)), x, y);
    },
    { passive: false },
  );
  stage.addEventListener("keydown", (event) => {
    const step = 0.15 / view.zoom;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === "+" || event.key === "=") zoomBy(2);
    else if (event.key === "-") zoomBy(1 / 2);
    else if (event.key === "0") zoomTo(1);
    else if (move && view.zoom > 1) {
      zoomTo(view.zoom, view.x + move[0] * step, view.y + move[1] * step);
    } else return;
    event.preventDefault();
  });
  wipe.addEventListener("input", () => wipeTo(Number(wipe.value)));
  wipe.value = share;
  new ResizeObserver(plan).observe(node);

  return { node, show, put, zoomTo, wipeTo };
}
