const MOST_SENT = 8e6; // bytes of a file: servers drop connections over larger messages
const SHIPPED_NETWORKS = ["small-mid", "small", "base"];
const EXAMPLE_PICTURES = ["china", "coffee", "flower", "chelsea", "rocket", "retina", "astronaut"];

/** A picture is enlarged, in tiles or at once: one that comes with odebc, or the user's own. */
function enlargeApp(place, { ask, shared, facts, guarded, still }) {
  if (still) {
    place.append(tag("p", {}, "Enlarging a picture needs a running kernel."));
    return {};
  }
  const wish = facts.state?.enlarge ?? {};
  const scored = Object.values(facts.shelf).map((kept) => kept.network);
  const networks = [...new Set([...SHIPPED_NETWORKS, ...scored])];
  let subject = null; // what Python said of the picture
  let base = []; // pictures that are there before a run: bicubic, and HR where it is known
  let running = false;
  let result = null; // of the last run: name and bytes of its file
  let leave = () => {}; // what a cancelled run says of its pictures
  let own = null; // what Python said of the start that belongs to the network
  const starts = {}; // the same for every network that was chosen
  let mine = 0; // counts pictures, so that a late answer about an older one is dropped

  const problem = tag("p", { class: "odebc-problem", role: "alert" });
  const remarks = tag("p", { class: "note" });
  const warning = tag("p", { class: "odebc-enlarge-warning", role: "status" });
  const why = tag("p", { class: "note" });
  const cost = tag("p", { class: "odebc-enlarge-cost", "aria-live": "polite" });
  const said = tag("p", { class: "odebc-enlarge-said", "aria-live": "polite" });
  const scoresAt = tag("p", { class: "odebc-enlarge-scores" });
  const bar = tag("progress", { max: 1, value: 0, "aria-label": "done of the enlargement" });
  bar.hidden = true;

  const picture = choice({
    label: "picture",
    options: EXAMPLE_PICTURES.map((name) => [name, name]),
    value: EXAMPLE_PICTURES.includes(wish.picture) ? wish.picture : EXAMPLE_PICTURES[0],
    onchange: (name) => name && take({ example: name }),
  });
  const file = tag("input", {
    type: "file",
    accept: "image/*",
    onchange: () => file.files.length && receive([...file.files]),
  });
  const network = choice({
    label: "network",
    options: networks.map((name) => [name, name]),
    value: networks.includes(wish.network) ? wish.network : networks[0],
    onchange: () => guarded(renew),
  });
  const start = choice({ label: "start", options: [["…", null]], onchange: reckon });
  const family = choice({
    label: "sampler",
    options: ["DDIM", "DPMS", "DPM++-2M"].map((name) => [name, name]),
    value: wish.family ?? "DDIM",
    onchange: reckon,
  });
  const steps = slider({
    label: "steps",
    values: evenSteps(2, 50, 1),
    value: wish.steps ?? 20,
    onchange: reckon,
  });
  const draws = choice({
    label: "random starts beside",
    options: [0, 1, 3].map((n) => [String(n), n]),
    value: wish.draws ?? 1,
    onchange: reckon,
  });
  const go = button("enlarge", () => guarded(run), { class: "odebc-go" });
  const cancel = button("cancel", () => stop());
  const keep = button("download", () => download(result.file, result.name, "image/png"));
  const cut = cropping({ onchange: () => guarded(recrop) });
  const compared = comparison({ left: 0, right: 2, name: "enlargements" });

  place.append(
    tag(
      "p",
      {},
      "The picture is solved in the way that was best for the network: in tiles that overlap, " +
        "each from the same x_T, or at once, from a canvas that is made of it. " +
        "A picture of your own may be dropped anywhere here.",
    ),
    tag(
      "div",
      { class: "odebc-enlarge-both" },
      tag(
        "div",
        { class: "odebc-enlarge-controls" },
        row(
          picture.node,
          tag("label", { class: "odebc-enlarge-file" }, "or one of your own …", file),
        ),
        problem,
        remarks,
        cut.node,
        row(network.node, start.node),
        why,
        row(family.node, steps.node),
        row(draws.node),
        warning,
        row(go, cancel, keep),
        cost,
        bar,
        said,
      ),
      tag("div", { class: "odebc-enlarge-result" }, compared.node, scoresAt),
    ),
  );

  const label = () => `${family.value}-${steps.value}`;
  const question = () => ({
    picture: subject.picture,
    crop: cut.value,
    network: network.value,
    sampler: label(),
    start: start.value,
    draws: draws.value,
  });

  function ready() {
    const able = Boolean(subject && base.length && start.value && go.usable);
    go.disabled = running || !able;
    cancel.disabled = !running;
    keep.disabled = !result;
  }

  /** Nothing of an earlier picture stays. */
  function clear() {
    said.textContent = "";
    stop("another picture was chosen");
    mine += 1;
    subject = null;
    base = [];
    result = null;
    go.usable = false;
    for (const text of [problem, remarks, warning, cost, scoresAt]) text.textContent = "";
    cut.hide();
    compared.show([]);
    ready();
  }

  /** A file of the user's own; what goes wrong is said beside the button. */
  async function receive([chosen, ...others]) {
    if (running) {
      problem.textContent =
        `${chosen.name} was not taken: an enlargement is running. ` +
        "Cancel it or wait for its end, then choose the file again.";
      file.value = "";
      return;
    }
    picture.set(null);
    if (chosen.size > MOST_SENT) {
      clear();
      const size = `${(chosen.size / 1e6).toFixed(0)} MB`;
      problem.textContent = `${chosen.name} has ${size}, and the app takes 8: cut it first.`;
      file.value = "";
      return;
    }
    await take({ name: chosen.name }, [await chosen.arrayBuffer()]);
    file.value = ""; // so that the same file can be chosen again
    if (!others.length) return;
    const left = others.map(({ name }) => name).join(", ");
    remarks.textContent += `; one picture at a time: without ${left}`;
  }

  async function take(args, files = []) {
    clear();
    const number = mine;
    try {
      const answer = await ask("picture", args, { files });
      if (number !== mine) return;
      subject = answer;
      const { width, height, alpha, known } = answer;
      const kind = known ? "made from the photograph" : alpha ? "with alpha" : "";
      const about = [answer.name, `${width}×${height} pixels`, kind, answer.remarks];
      remarks.textContent = about.filter(Boolean).join(", ");
      await cut.show(answer, args.example !== undefined);
      await guarded(recrop);
    } catch (error) {
      if (number !== mine || error.kind === "dropped") return;
      clear();
      problem.textContent = error.message || "This picture could not be read.";
    }
  }

  /** Another part of the picture: bicubic at once, and what it will cost. */
  async function recrop() {
    if (running) stop("the crop has changed");
    else if (result) said.textContent = "";
    const number = (mine += 1);
    result = null;
    scoresAt.textContent = "";
    ready();
    const answer = await ask("cropped", { picture: subject.picture, crop: cut.value });
    const smooth = await wholePart(answer.bicubic);
    const truth = answer.z && (await wholePart(answer.z));
    if (number !== mine) return;
    base = [{ label: "bicubic", part: smooth }];
    if (truth) base.push({ label: "HR", note: "the photograph", part: truth });
    compared.put("left", 0);
    compared.put("right", base.length - 1);
    compared.show(base);
    await reckon();
  }

  /** Another network has a start of its own. */
  async function renew(wanted) {
    unsure();
    const name = network.value;
    starts[name] ??= await ask("starts", { network: name });
    if (name !== network.value) return; // another was chosen meanwhile
    own = starts[name];
    why.textContent = own.why;
    offer(wanted ?? (start.value?.kind === "chosen" ? null : start.value?.kind));
    await reckon();
  }

  /** Starts to choose from: the network's own, those that the other apps have found, random. */
  function offer(wanted) {
    if (!own) return;
    const shipped = ["the shipped x̃_T", { kind: "shipped" }];
    const fixed = ["a fixed start", { kind: "fixed" }];
    const options = [own.kind === "shipped" ? shipped : fixed];
    const chosen = shared.get("start");
    if (chosen) {
      const { network: of, sampler, seed, index } = chosen;
      const start = { kind: "chosen", network: of, sampler, seed, index };
      options.push([`${chosen.label}, chosen in Search`, start]);
    }
    if (shared.get("found")) options.push(["the live search's x_T", { kind: "found" }]);
    options.push(["a random start", { kind: "random" }]);
    const found = options.find(([, value]) => value.kind === wanted);
    start.offer(options, (found ?? options[0])[1]);
  }

  /** Until it is known what a run would be. */
  function unsure() {
    go.usable = false;
    cost.textContent = "…";
    ready();
  }

  /** What it will cost, and whether everything belongs together. */
  async function reckon() {
    if (!subject || !start.value) return ready();
    unsure();
    await guarded(async () => {
      const answer = await ask("forecast", question());
      go.usable = answer.usable;
      warning.textContent = answer.warning;
      const from = counted(1 + draws.value, "start");
      cost.textContent =
        `To ${answer.width}×${answer.height} pixels ${inWords(answer)}, ` +
        `${answer.calls.toLocaleString("en")} solver steps from ${from}: ` +
        `about ${lastingFor(answer.seconds)}, up to ${answer.memory} of memory.`;
    });
    if (cost.textContent === "…") cost.textContent = "";
    ready();
  }

  async function run() {
    const asked = question();
    const number = mine;
    const parts = growingParts(base[0].part, 1 + asked.draws);
    const names = [start.select.value, ...randomNames(asked.draws)];
    const notes = names.map(() => "…");
    running = true;
    result = null;
    bar.hidden = false;
    bar.value = 0;
    said.textContent = scoresAt.textContent = "";
    ready();

    function show() {
      const made = names.map((name, i) => ({ label: name, note: notes[i], part: parts[i] }));
      const random = made.length > 1 ? [made[1]] : [];
      compared.show([base[0], ...random, made[0], ...base.slice(1)]);
    }

    leave = () => {
      notes.fill("unfinished");
      show();
    };
    compared.put("left", 0);
    compared.put("right", asked.draws ? 2 : 1);
    show();
    try {
      const answer = await ask("enlarge", asked, {
        update: async (told) => {
          if (number !== mine) return;
          if (told.share !== undefined) {
            bar.value = told.share;
            if (told.share === 1) said.textContent = "Measuring the result …";
            else if (told.left !== null) said.textContent = `${lastingFor(told.left)} left`;
            return;
          }
          await layTiles(told, parts[told.which]);
          if (running) show();
        },
      });
      if (number !== mine) return;
      parts[0] = await wholePart(answer.file);
      if (answer.random) parts[1] = await wholePart(answer.random);
      result = { file: answer.file, name: answer.name };
      judge(answer, notes, base);
      running = false;
      show();
    } catch (error) {
      if (number !== mine) return;
      said.textContent = "";
      leave();
      if (error.kind !== "dropped") throw error;
      said.textContent = "Cancelled.";
    } finally {
      if (number === mine) {
        running = false;
        bar.hidden = true;
        ready();
      }
    }
  }

  /** Numbers beside the pictures, and in words. */
  function judge(answer, notes, base) {
    const took = `Took ${lastingFor(answer.seconds)}.`;
    const seams = answer.seams === null ? "" : ` ${seamsInWords(answer)}`;
    said.textContent = took + seams;
    notes.fill("");
    if (!answer.plain) return;
    const { measure, plain, chosen, draws: random } = answer;
    const words = ([d, p]) => `${measure} ${d.toFixed(3)}, ${p.toFixed(1)} dB`;
    base[0].note = words(plain);
    notes[0] = words(chosen);
    if (random.length) notes[1] = words(random[0]);
    if (random.length < 2) return;
    const all = random.map(([d]) => d);
    scoresAt.textContent =
      `${measure} of ${random.length} random starts: ${mean(all).toFixed(3)} on average, ` +
      `${Math.min(...all).toFixed(3)} to ${Math.max(...all).toFixed(3)}.`;
  }

  /** Ends between two calls of the network; what is said tells why. */
  function stop(why = "") {
    if (!running) return;
    ask("cancel", { name: "enlarge" });
    running = false;
    bar.hidden = true;
    said.textContent = why ? `Cancelled, as ${why}.` : "Cancelled.";
    leave();
    mine += 1; // what still comes belongs to nobody
    ready();
  }

  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("dropping");
  });
  place.addEventListener("dragleave", () => place.classList.remove("dropping"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    place.classList.remove("dropping");
    const dropped = event.dataTransfer.files;
    if (dropped.length) guarded(() => receive([...dropped]));
  });

  /** A candidate that was clicked in Search comes with its network and its sampler. */
  function follow() {
    const chosen = shared.get("start");
    const [, name, count] = chosen.sampler.match(/^(.*)-(\d+)$/) ?? [];
    if (networks.includes(chosen.network)) network.set(chosen.network);
    if (name) family.set(name);
    if (count) steps.set(Number(count));
    guarded(() => renew("chosen"));
  }

  shared.on("start", () => {
    // a start of another kind that the user has chosen here stays
    if (start.value?.kind === "chosen") follow();
    else offer(start.value?.kind);
  });
  shared.on("found", () => offer(start.value?.kind));
  if (shared.get("start")) follow();
  else guarded(() => renew(wish.start));
  ready();
  guarded(() => take({ example: picture.value }));
  return {};
}

function lastingFor(seconds) {
  if (seconds < 1.5) return `${Math.max(seconds, 0.1).toFixed(1)} s`;
  return seconds < 90 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(0)} min`;
}

/** How a picture is solved. */
function inWords({ mode, tiles }) {
  if (mode === "whole") return "at once";
  return `in ${counted(tiles, mode === "windows" ? "window" : "tile")}`;
}

function seamsInWords(answer) {
  return (
    `Steps across the edges of ${answer.mode} are ${answer.seams.toFixed(2)} times those ` +
    `elsewhere (bicubic ${answer.smooth.toFixed(2)}).`
  );
}

const randomNames = (n) => Array.from({ length: n }, (_, i) => `random start ${i + 1}`);

/** A whole picture as a part. */
async function wholePart(view, type = "image/png") {
  const image = await decoded(view, type);
  return { image, x: 0, y: 0, width: image.width, height: image.height };
}

/** Canvases that show the bicubic picture until tiles come. */
function growingParts(part, count) {
  return Array.from({ length: count }, () => {
    const canvas = document.createElement("canvas");
    paint(canvas, part);
    return { ...part, image: canvas };
  });
}

/** Lay tiles on a picture that grows. */
async function layTiles({ places, side, tiles }, part) {
  const image = await decoded(tiles);
  const context = part.image.getContext("2d");
  places.forEach(([x, y], i) => {
    context.drawImage(image, 0, i * side, side, side, x, y, side, side);
  });
}

/** A preview on which a rectangle is drawn; its numbers can be typed, too. */
function cropping({ onchange }) {
  let limits = { width: 1, height: 1, most: 1 };
  let box = null; // x, y, width, height in pixels of the picture; null: all of it
  let held = null;
  const canvas = tag("canvas", { role: "img", "aria-label": "your picture, and the crop" });
  const frame = tag("div", { class: "odebc-enlarge-frame", "aria-hidden": "true" });
  const preview = tag("div", { class: "odebc-enlarge-preview" }, canvas, frame);
  const fields = ["x", "y", "width", "height"].map((name) => {
    const id = fresh("crop");
    const input = tag("input", { type: "number", id, min: 0, step: 1, onchange: typed });
    return { input, node: tag("span", {}, tag("label", { for: id }, name), input) };
  });
  const node = tag(
    "div",
    { class: "odebc-enlarge-crop" },
    preview,
    tag("div", {}, tag("b", {}, "crop, pixels"), ...fields.map((field) => field.node)),
  );
  node.hidden = true;

  async function show(answer, all) {
    node.hidden = all;
    box = all ? null : answer.crop;
    limits = answer;
    if (all) return;
    paint(canvas, await wholePart(answer.preview, "image/webp"));
    tell();
  }

  function clamp([x, y, width, height]) {
    const w = Math.round(Math.min(Math.max(width, 1), limits.most, limits.width));
    const h = Math.round(Math.min(Math.max(height, 1), limits.most, limits.height));
    const left = Math.round(Math.min(Math.max(x, 0), limits.width - w));
    return [left, Math.round(Math.min(Math.max(y, 0), limits.height - h)), w, h];
  }

  function tell() {
    box = clamp(box.map((value) => (Number.isFinite(value) ? value : 0)));
    fields.forEach(({ input }, i) => (input.value = box[i]));
    const shares = [limits.width, limits.height, limits.width, limits.height];
    ["left", "top", "width", "height"].forEach((side, i) => {
      frame.style[side] = `${(100 * box[i]) / shares[i]}%`;
    });
  }

  function typed() {
    box = fields.map(({ input }) => Number(input.value));
    tell();
    onchange();
  }

  function at(event) {
    const area = canvas.getBoundingClientRect();
    const x = ((event.clientX - area.left) / area.width) * limits.width;
    return [x, ((event.clientY - area.top) / area.height) * limits.height];
  }

  preview.addEventListener("pointerdown", (event) => {
    const [x, y] = at(event);
    const inside = x >= box[0] && y >= box[1] && x < box[0] + box[2] && y < box[1] + box[3];
    held = { x, y, move: inside && event.target === frame, box };
    preview.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  preview.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = at(event);
    const [dx, dy] = [x - held.x, y - held.y];
    if (held.move) {
      box = [held.box[0] + dx, held.box[1] + dy, held.box[2], held.box[3]];
    } else if (Math.abs(dx) >= 4 && Math.abs(dy) >= 4) {
      const [w, h] = [Math.min(Math.abs(dx), limits.most), Math.min(Math.abs(dy), limits.most)];
      box = [dx < 0 ? held.x - w : held.x, dy < 0 ? held.y - h : held.y, w, h];
    }
    tell();
  });
  preview.addEventListener("pointerup", () => {
    const changed = held && String(held.box) !== String(box);
    held = null;
    if (changed) onchange();
  });

  return {
    node,
    show,
    hide: () => (node.hidden = true),
    get value() {
      return box;
    },
  };
}

APPS.enlarge = { title: "Enlarge", make: enlargeApp };
