// Fills the page: the sections at once, the rollouts when the rest of the file is there.

function start() {
  const data = JSON.parse(document.getElementById("run-data").textContent);
  const findingMarks = (data.diagnosis ? data.diagnosis.findings : []).map((finding) => ({ step: finding.step, last_step: finding.last_step, kind: "finding", words: finding.title }));
  data.marks = [...data.marks, ...findingMarks].sort((a, b) => a.step - b.step);
  [run, columns, marks] = [data.run, data.columns, data.marks];
  document.getElementById("run-name").textContent = run.name;
  const state = document.getElementById("run-state");
  state.textContent = run.state;
  state.classList.add(run.state);
  const sections = [overview(data), learning(data), time(data), findings(data), staleness(data), weights(data), ledger(data), rolloutSection(), everyMetric(), settings(data)];
  document.getElementById("main").append(...sections);
  document.getElementById("foot").textContent = `Written by prolong ${run.prolong}. The page fetches nothing.`;
  navigation(sections);
  theme();
  redraw();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  addEventListener("keydown", (event) => {
    const field = document.getElementById("rollout-search");
    if (event.key !== "/" || !field || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    field.focus();
  });
  document.addEventListener("DOMContentLoaded", () => {
    fillRollouts(JSON.parse(document.getElementById("rollout-data").textContent));
    document.documentElement.dataset.ready = "true";
  });
}

function navigation(sections) {
  const links = sections.map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent));
  document.getElementById("nav").append(...links);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) links.forEach((link, i) => {
      link.classList.toggle("here", sections[i] === entry.target);
      if (sections[i] === entry.target) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }, { rootMargin: "-90px 0px -70% 0px" });
  sections.forEach((part) => seen.observe(part));
}

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const set = (name) => { root.dataset.theme = name; };
  set(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => set(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => set(root.dataset.theme === "dark" ? "light" : "dark"));
}

start();
