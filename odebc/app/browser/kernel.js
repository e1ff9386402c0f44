// The apps with a kernel behind them: questions to Python, a word when it is gone, and tabs.

const GONE = "The kernel has ended or was started anew: run the cell again, or load the page anew.";

/** Questions to the kernel; `tell` gets a sentence when there is nobody left to answer them. */
function kernel(model, tell) {
  const waiting = new Map();
  let last = 0;
  let gone = false;
  model.on("msg:custom", (message, buffers) => {
    const asked = waiting.get(message.id);
    if (!asked) return;
    const value = { ...message.value };
    (message.names ?? []).forEach((name, i) => (value[name] = buffers[i]));
    if (message.kind === "update") return asked.update?.(value);
    waiting.delete(message.id);
    if (message.kind === "answer") asked.resolve(value);
    else asked.reject(Object.assign(new Error(message.why ?? ""), { kind: message.kind }));
  });

  /** The kernel has died, was started anew or replaced: nothing that was asked is answered. */
  function lose() {
    gone = true;
    tell(GONE);
    waiting.forEach(({ reject }) => reject(lost()));
    waiting.clear();
  }

  const lost = () => Object.assign(new Error(GONE), { kind: "gone" });
  for (const event of ["comm_live_update", "comm:close", "destroy"]) model.on(event, lose);

  return (name, args = {}, { update, files = [] } = {}) =>
    new Promise((resolve, reject) => {
      const id = ++last;
      if (name === "cancel")
        resolve(); // gets no answer of its own
      else if (gone) reject(lost());
      else waiting.set(id, { resolve, reject, update });
      if (gone) return;
      try {
        model.send({ id, name, args }, undefined, files);
      } catch {
        lose();
      }
    });
}

/** A row of tabs, as the ARIA practices describe it: arrows move, one tab is in the order. */
function tabs(panels, open) {
  const list = tag("div", { role: "tablist", "aria-label": "apps", class: "odebc-tabs" });
  panels.forEach((panel, i) => {
    const [id, place] = [fresh("tab"), fresh("panel")];
    const attributes = { role: "tab", id, "aria-controls": place, type: "button" };
    panel.tab = tag("button", { ...attributes, onclick: () => go(i) }, panel.title);
    give(panel.place, { role: "tabpanel", id: place, "aria-labelledby": id });
  });

  function go(i) {
    panels.forEach((panel, j) => {
      panel.tab.setAttribute("aria-selected", i === j);
      panel.tab.tabIndex = i === j ? 0 : -1;
    });
    open(panels[i]);
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const now = panels.findIndex((panel) => panel.tab === event.target);
    const next = (now + step + panels.length) % panels.length;
    panels[next].tab.focus();
    go(next);
  });
  list.append(...panels.map((panel) => panel.tab));
  go(0);
  return list;
}

function render({ model, el }) {
  const lost = tag("p", { class: "odebc-problem odebc-lost", role: "alert" });
  const ask = kernel(model, (text) => (lost.textContent = text));
  present(el, model.get("facts"), ask).prepend(lost);
}

export default { render };
