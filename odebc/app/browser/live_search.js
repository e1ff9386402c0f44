// What the search app does with a kernel only: a search of its own.

/** The real search, beside everything else. */
function liveSearch({ ask, guarded, shared, now }) {
  const progress = tag("progress", { max: 1, value: 0, "aria-label": "search" });
  const status = tag("p", { class: "odebc-status", "aria-live": "polite" });
  const cells = tag("canvas", { class: "odebc-cells", role: "img", hidden: true });
  const precision = tag("p", { class: "note" });
  const how =
    "The real search with the K and R of the sliders, by halving: all K on one pair, the better " +
    "half on two, and so on. Its candidates are those of the map; a shuffle draws others.";
  const go = button("search live", () => guarded(begin));
  const cancel = button("cancel", () => ask("cancel", { name: "live" }).catch(() => {}));
  const keep = button("save what it found", () => guarded(save), { disabled: true });
  cancel.disabled = true;
  const node = tag(
    "div",
    { class: "odebc-live" },
    tag("h3", {}, "Search live"),
    tag("p", { class: "note" }, how),
    row(go, cancel, progress, keep),
    status,
    cells,
    precision,
  );

  async function begin() {
    const { key, distance, K, R, columns, shuffle } = now();
    [go.disabled, cancel.disabled, keep.disabled] = [true, false, true];
    status.textContent = "loading the network …";
    progress.value = 0;
    let last;
    const update = (told) => {
      if (told.precision) precision.textContent = told.precision;
      if (told.share != null) {
        progress.value = told.share;
        if (!last) status.textContent = "searching …";
      }
      if (told.index != null) tell((last = told), "best so far:");
    };
    try {
      const args = { key, distance, K, R, columns: columns.slice(0, R), shuffle };
      const found = await ask("live", args, { update });
      if (found.nothing) status.textContent = "stopped before anything was found";
      else {
        tell(found, found.finished ? "found" : "cancelled; the best so far is");
        keep.disabled = false;
        shared.set("found", { ...found, key });
      }
    } catch (error) {
      status.textContent = last ? status.textContent : "";
      throw error;
    } finally {
      [go.disabled, cancel.disabled] = [false, true];
      progress.value = 0;
    }
  }

  function tell(found, what) {
    const whose = found.seed ? ` of seed ${found.seed}` : "";
    const unseen =
      found.unseen == null
        ? ""
        : `, ${four(found.unseen)} ± ${four(found.error)} on unseen pictures`;
    const random = found.random == null ? "" : ` (a random start: ${four(found.random)})`;
    status.textContent =
      `${what} candidate ${found.index + 1}${whose}, ${found.measure} ` +
      `${four(found.score)} on ${counted(found.pairs, "pair")}${random}${unseen}; ` +
      `${counted(found.solves, "solve")}, ${found.seconds.toFixed(0)} s`;
    const scores = numbersIn(found.scores);
    const columns = scores.length / found.rows;
    const finite = [...scores].filter(Number.isFinite).sort((a, b) => a - b);
    const limits = [finite[0], finite.at(-1)];
    cells.hidden = false;
    heat(cells, found.rows, columns, (k, i) => scores[k * columns + i], limits);
    const paid = `${finite.length} of ${scores.length} cells of the matrix are known`;
    cells.setAttribute("aria-label", paid);
    cells.title = paid;
  }

  async function save() {
    const { file, name } = await ask("start", { found: true });
    download(file, name);
  }

  return { node };
}
