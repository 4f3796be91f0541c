// The sections of the page, each made of the run's data. A section that has nothing to show says why.

const PART_COLORS = { actors: "var(--c1)", learner: "var(--c0)", staleness: "var(--c3)", verifiers: "var(--c2)", weights: "var(--c5)" };
const STATE_COLORS = { trained: "var(--c2)", batched: "var(--c0)", stored: "var(--c5)", leased: "var(--c6)", issued: "var(--c3)", filtered: GREY, stale: "var(--c1)", failed: "var(--c4)" };

function section(id, title, lead, ...content) {
  const found = content.flat().filter(Boolean);
  return el("section", { id, "aria-label": title }, el("h2", {}, title), lead ? el("p", { class: "lead" }, lead) : null,
    found.length ? found : el("p", { class: "card small" }, "Nothing was recorded for this section."));
}

const grid = (items, kind = "") => { const found = items.filter(Boolean); return found.length ? el("div", { class: `grid ${kind}` }, found) : null; };
const figure = (value, words, kind) => el("div", { class: "figure" }, el("b", { class: kind }, value), el("span", {}, words));
// Lines of a chart, [metric, label] each, of the metrics that the run has
const linesOf = (...pairs) => pairs.filter(([name]) => has(name)).map(([name, label]) => ({ name: label, values: column(name) }));
const gain = (factor) => `${factor >= 1 ? "+" : ""}${Math.round(100 * (factor - 1))} %`;

// --- overview ----------------------------------------------------------------------------------------------------------

function overview(data) {
  const { run, diagnosis } = data, totals = run.totals, setting = Object.keys(run.scores)[0];
  const [before, after] = setting ? run.scores[setting] : [null, null];
  const figures = el("div", { class: "figures" },
    figure(run.planned ? `${whole(run.step)} / ${whole(run.planned)}` : whole(run.step), "steps"),
    figure(duration(run.wall_s), "wall clock of the learner"),
    before && after && after.version > before.version ? figure(`${score(before.mean)} → ${score(after.mean)}`, `held-out mean, ${setting}`, after.mean >= before.mean ? "good" : "bad") : null,
    figure(compact(totals.rollouts), "rollouts trained"),
    figure(compact(totals.tokens), "completion tokens trained"),
    diagnosis ? figure(num(diagnosis.steps_per_s * 3600), "steps per hour") : null,
    figure(whole(data.marks.filter((mark) => mark.kind === "reset").length), "resets of the reference"),
    diagnosis ? figure(whole(diagnosis.findings.length), "findings", diagnosis.findings.length ? "warn" : "good") : null);
  return section("overview", "Overview", `${run.folder} · ${run.model} · last record ${run.written || "none"}`, figures,
    el("div", { class: "grid two" }, el("div", {}, verdict(diagnosis), heldOutChart(data, setting)), scoresTable(run)));
}

function verdict(diagnosis) {
  if (!diagnosis || !diagnosis.roof) return null;
  const best = diagnosis.moves[0] && diagnosis.moves[0].gain > 1 ? diagnosis.moves[0] : null;
  return el("div", { class: "card verdict" },
    el("p", { class: "big" }, `${sentence(diagnosis.roof.words)}.`),
    best
      ? el("p", {}, "Most to be gained: ", el("b", { class: "good" }, gain(best.gain)), ` steps per second. ${sentence(best.words)}. `, best.settings.map((setting) => [el("code", {}, setting), " "]), doubted(diagnosis))
      : el("p", { class: "small" }, `${sentence(diagnosis.no_moves || "no move that was tried would make the run faster")}.`),
    diagnosis.findings.length ? el("p", {}, el("a", { href: "#findings" }, `${diagnosis.findings.length} finding${diagnosis.findings.length > 1 ? "s" : ""}: `), diagnosis.findings.map((finding) => finding.title).join(", ")) : null);
}

// A model in which another part binds than in the records misses something
function doubted({ roof, simulated_part: part }) {
  if (!part || part === roof.part) return null;
  return el("span", { class: "warn" }, ` In the planner's model ${part} would bind, not ${roof.part}: it misses something, believe gains less.`);
}

function scoresTable(run) {
  const settings = Object.keys(run.scores);
  if (!settings.length) return null;
  const tasks = [...new Set(settings.flatMap((name) => run.scores[name].flatMap((side) => Object.keys((side || {}).by_task || {}))))].sort();
  const domains = [...new Set(tasks.map((task) => task.split("/")[0]))];
  const mean = (side, domain) => { const values = tasks.filter((task) => task.split("/")[0] === domain).map((task) => ((side || {}).by_task || {})[task]).filter((value) => value !== undefined); return values.length ? values.reduce((a, b) => a + b) / values.length : null; };
  const arrow = (a, b) => el("span", { class: a === null || b === null || a === undefined || b === undefined ? "" : b > a ? "good" : b < a ? "bad" : "" }, `${score(a)} → ${score(b)}`);
  const row = (name, pick, kind) => ({ kind, cells: [name, ...settings.map((setting) => arrow(...run.scores[setting].map(pick)))] });
  const rows = domains.flatMap((domain) => [
    row(domain, (side) => mean(side, domain), "head"),
    ...tasks.filter((task) => task.split("/")[0] === domain).map((task) => row(task.slice(domain.length + 1) || task, (side) => ((side || {}).by_task || {})[task] ?? null, "sub")),
  ]);
  rows.push(row("mean over tasks", (side) => (side || {}).mean ?? null, "head"));
  const versions = run.scores[settings[0]].map((side) => (side || {}).version);
  return el("div", { class: "card" }, el("h3", {}, `Held-out pass rate, version ${num(versions[0])} → ${num(versions[1])}`), table([{ name: "domain, task" }, ...settings.map((name) => ({ name, n: true }))], rows));
}

function heldOutChart({ sweeps }, setting) {
  if (!sweeps[setting] || sweeps[setting].versions.length < 2) return null;
  const { versions, names } = sweeps[setting], domains = Object.keys(names).filter((name) => name !== "mean" && !name.includes("/"));
  const lines = ["mean", ...domains].map((name) => ({ name, values: names[name], steps: versions, dots: true, color: name === "mean" ? "var(--ink)" : undefined }));
  return lineChart({ title: `Held-out score by domain, ${setting}`, lines, low: 0 });
}

// --- learning ----------------------------------------------------------------------------------------------------------

function learning(data) {
  const heldOut = Object.keys(data.sweeps).map((setting) => heldOutChart(data, setting));
  const names = Object.keys(columns.names);
  const rewards = names.filter((name) => /^reward\/[^/]+$/.test(name) && name !== "reward/mean");
  const chosen = [
    lineChart({ title: "Reward in training by domain", lines: [...(has("reward/mean") ? [{ name: "mean", values: column("reward/mean"), color: "var(--ink)" }] : []), ...rewards.slice(0, 8).map((name) => ({ name: name.slice(7), values: column(name) }))] }),
    lineChart({ title: "KL to the reference", note: "reference/kl, nats per token", lines: linesOf(["reference/kl", "KL"]) }),
    lineChart({ title: "Entropy", note: "learner/entropy, nats per token", lines: linesOf(["learner/entropy", "entropy"]), low: 0 }),
    lineChart({ title: "Length of completions", lines: linesOf(["rollout/tokens_mean", "mean tokens"], ["rollout/tokens_max", "longest"]) }),
    lineChart({ title: "Ended by the token limit", lines: linesOf(["rollout/truncated", "share truncated"]), low: 0 }),
    lineChart({ title: "Gradient norm", lines: linesOf(["learner/grad_norm", "before clipping"]) }),
    lineChart({ title: "Off-policyness", note: "policy/ess: effective sample size as a share of the tokens", lines: linesOf(["policy/ess", "effective sample size"]) }),
    lineChart({ title: "KL of sampler and policy", lines: linesOf(["policy/kl_behaviour_k3", "k3"], ["policy/kl_behaviour", "k1"]) }),
    lineChart({ title: "Clipped tokens", lines: linesOf(["policy/clip_low", "low"], ["policy/clip_high", "high"], ["policy/rejected", "rejected"]) }),
    lineChart({ title: "Learning rate", lines: linesOf(["learner/lr", "lr"]) }),
  ];
  const faults = data.marks.filter((mark) => mark.kind !== "stage");
  return section("learning", "Learning", null, chartControls(), grid([...heldOut, ...chosen]),
    el("details", { class: "card" }, el("summary", {}, `Events: ${data.marks.length}`),
      data.marks.length ? table([{ name: "steps" }, { name: "kind" }, { name: "what" }], data.marks.map((mark) => [mark.last_step > mark.step ? `${mark.step} – ${mark.last_step}` : String(mark.step), mark.kind, mark.words])) : el("p", { class: "small" }, "No reset, stage, fault or finding."),
      faults.length ? null : el("p", { class: "small" }, "No faults were counted.")));
}

function chartControls() {
  const box = (text, name) => el("label", {}, el("input", { type: "checkbox", checked: view[name], onchange: (event) => { view[name] = event.target.checked; redraw(); } }), text);
  const key = (mark, text) => el("span", { class: "key" }, mark, text);
  const small = (node) => svg("svg", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" }, node);
  return el("div", { class: "controls" },
    segmented("Axis", [[false, "steps"], [true, "hours"]], view.hours, (hours) => { view.hours = hours; redraw(); }),
    box("smooth", "smooth"), box("marks", "marks"),
    el("span", { class: "legend", style: { margin: "0" } },
      key(small(svg("line", { class: "reset", x1: 6, x2: 6, y1: 0, y2: 12 })), "reset"), key(small(svg("rect", { class: "band", width: 12, height: 12 })), "stage"),
      key(small(svg("path", { class: "fault", d: "M6 2l4 8h-8z" })), "fault"), key(small(svg("path", { class: "finding-mark", d: "M2 2h8l-4 8z" })), "finding or alert")));
}

// --- time --------------------------------------------------------------------------------------------------------------

function time(data) {
  const { diagnosis } = data;
  const wall = column("learner/step_s"), minus = (values, ...parts) => values && values.map((value, i) => value === null ? null : Math.max(0, value - parts.reduce((sum, part) => sum + ((part && part[i]) || 0), 0)));
  const [wait, compute, publish, checkpoint] = ["wait", "compute", "publish", "checkpoint"].map((name) => column(`learner/${name}_s`));
  const parts = [
    { name: "waits for a batch", values: wait, color: "var(--c1)" }, { name: "computes", values: compute, color: "var(--c0)" },
    { name: "publishes", values: publish, color: "var(--c5)" }, { name: "checkpoint", values: checkpoint, color: "var(--c3)" },
    { name: "rest", values: minus(wall, wait, compute, publish, checkpoint), color: GREY },
  ];
  const sides = diagnosis ? diagnosis.sides : [];
  return section("time", "Where the time went", "The seconds of each side add up to the wall clock, times its processes; the last part of each is what no record names.",
    grid(sides.slice(0, MOST_SIDES).map(sideCard), "two"), sides.length > MOST_SIDES ? otherSides(sides.slice(MOST_SIDES)) : null,
    grid([stackedChart("The learner's seconds per step", parts), lineChart({ title: "Tokens per second", lines: linesOf(["perf/actor_tokens_per_s", "sampled, all actors"], ["learner/tokens_per_s", "learner, while it computes"]), low: 0 })], "two"),
    diagnosis && diagnosis.roof ? roofCard(diagnosis) : null, diagnosis && diagnosis.moves.length ? movesCard(diagnosis) : null);
}

const MOST_SIDES = 12; // that are drawn; of the others a table says what they spent

// What waits for a part has that part's colour, paler
function spentColor(side, part, i) {
  const waited = PART_COLORS[part.name.replace("wait: ", "")];
  if (waited && part.name.startsWith("wait: ")) return `color-mix(in srgb, ${waited} 45%, var(--faint))`;
  return i === side.spent.length - 1 ? GREY : color(i);
}

function otherSides(sides) {
  return el("details", { class: "card" }, el("summary", {}, `${sides.length} more`), table([{ name: "side" }, { name: "seconds", n: true }, { name: "spent on" }],
    sides.map((side) => [side.name, num(side.total_s), side.spent.map((part) => `${part.name} ${percent(side.total_s ? part.seconds / side.total_s : 0)}`).join(", ")])));
}

function sideCard(side) {
  const parts = side.spent.map((part, i) => ({ name: part.name, value: part.seconds, title: part.meaning, color: spentColor(side, part, i) }));
  const times = side.processes === 1 ? "" : ` of ${num(side.processes)} processes`;
  return el("div", { class: "card" }, el("h3", {}, side.name), el("p", { class: "small", style: { margin: "0" } }, `${duration(side.total_s)}${times}`),
    shareBar(parts, duration),
    el("details", {}, el("summary", { class: "small" }, "What these are"), table([{ name: "part" }, { name: "seconds", n: true }, { name: "share", n: true }, { name: "meaning" }],
      side.spent.map((part) => [part.name, num(part.seconds, 4), percent(side.total_s ? part.seconds / side.total_s : 0, 1), part.meaning]))));
}

function roofCard({ roof, steps_per_s: speed }) {
  const shares = Object.entries(roof.shares).map(([name, value]) => ({ name, value, color: PART_COLORS[name] || GREY }));
  const roofs = Object.entries(roof.roofs).filter(([, value]) => value > 0 && Number.isFinite(value)).sort((a, b) => a[1] - b[1]), least = roofs.length ? roofs[0][1] : 0;
  return el("div", { class: "card", style: { marginTop: "14px" } }, el("h3", {}, "Which roof binds"), el("p", { style: { margin: "0 0 6px" } }, `${sentence(roof.words)}.`),
    shares.length ? [el("h4", {}, "What the learner's time waited for"), shareBar(shares, null)] : null,
    roofs.length ? [el("h4", {}, "Steps per hour that each part allows by itself, by the planner's closed form"), table([{ name: "part" }, { name: "steps per hour", n: true }, { name: "" }], roofs.map(([name, value]) => [name, num(3600 * value), meter(least / value, PART_COLORS[name] || GREY)])), el("p", { class: "small" }, `The run made ${num(3600 * speed)} steps per hour.`)] : null,
    roof.evidence.length ? [el("h4", {}, "Evidence"), el("ul", { class: "plain" }, roof.evidence.map((line) => el("li", {}, sentence(line))))] : null);
}

function movesCard(diagnosis) {
  const most = Math.max(...diagnosis.moves.map((move) => move.gain - 1), 0.01);
  return el("div", { class: "card" }, el("h3", {}, "What would be gained by what"),
    el("p", { class: "small" }, `By the planner's simulation, which gives the run as it was ${num(3600 * diagnosis.simulated_steps_per_s)} steps per hour; it made ${num(3600 * diagnosis.steps_per_s)}.`, diagnosis.roof ? doubted(diagnosis) : null),
    table([{ name: "move" }, { name: "settings" }, { name: "steps/s", n: true }, { name: "" }, { name: "steps/hour", n: true }, { name: "mean staleness", n: true }, { name: "then binds" }],
      diagnosis.moves.map((move) => [sentence(move.words), move.settings.map((setting) => [el("code", {}, setting), " "]), el("b", { class: move.gain > 1.02 ? "good" : "" }, gain(move.gain)), meter((move.gain - 1) / most, "var(--good)"), num(3600 * move.steps_per_s), num(move.staleness_mean), move.binds_after])));
}

// --- findings ----------------------------------------------------------------------------------------------------------

function findings({ diagnosis }) {
  const lead = "Rules for prolonged runs look for collapse of entropy, KL alarms, plateaus, lengths that grow without gain, and signs of reward hacking.";
  if (!diagnosis) return section("findings", "Findings", lead, el("p", { class: "card small" }, "No diagnosis: the folder has no config.yaml, or no step is recorded."));
  if (!diagnosis.findings.length) return section("findings", "Findings", lead, el("p", { class: "card good" }, "No rule found a sign of trouble."));
  return section("findings", "Findings", lead, grid(diagnosis.findings.map((finding) => el("div", { class: "card finding" },
    el("h3", {}, finding.title), el("p", { class: "small", style: { margin: "0" } }, finding.last_step > finding.step ? `steps ${finding.step} to ${finding.last_step}` : `step ${finding.step}`),
    el("p", {}, finding.words),
    table([{ name: "evidence" }, { name: "value", n: true }], Object.entries(finding.numbers).map(([name, value]) => [name, num(value, 4)])),
    el("p", {}, el("b", {}, "What to do: "), finding.advice, " ", finding.settings.map((setting) => [el("code", {}, setting), " "])))), "two"));
}

// --- staleness, weights, ledger ----------------------------------------------------------------------------------------

function staleness({ run }) {
  const ages = run.staleness.map(([age, share]) => ({ name: String(age), value: share, title: `${age} versions older than the policy` }));
  const survival = run.survival.map((share, i) => ({ name: i === 0 ? "short" : i === 9 ? "long" : String(i + 1), value: share, title: `decile ${i + 1} of completion length` }));
  const lead = run.eta === null ? null : `buffer.eta = ${run.eta} bounds how many versions old a trained token may be. A bound that eats long answers shows in the survival by length.`;
  return section("staleness", "Staleness and survival", lead, grid([
    ages.length ? barChart("Staleness of trained tokens", ages, (value) => percent(value), "var(--c0)") : null,
    lineChart({ title: "Staleness over the run", lines: linesOf(["buffer/staleness_mean", "mean of groups"], ["buffer/staleness_max", "largest"], ["buffer/eta", "eta"]), low: 0 }),
    survival.length ? barChart("Groups that were trained, by length", survival, (value) => percent(value), "var(--c2)", 1.12) : null,
    lineChart({ title: "Work that eta held back", note: "buffer/held_s: seconds per step", lines: linesOf(["buffer/held_s", "seconds"]), low: 0 }),
  ]));
}

function weights({ run }) {
  const sum = (name) => (has(name) ? column(name).reduce((total, value) => total + (value || 0), 0) : null);
  const last = (name) => { const values = column(name) || []; for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i]; return null; };
  const counted = [["updates that actors loaded", whole(run.totals.weight_updates)], ["members that did not get the weights", num(last("weights/failed"))], ["versions replaced by a newer one", num(last("weights/replaced"))],
    ["versions pulled", num(sum("buffer/pulls"))], ["bytes pulled", compact(sum("buffer/pulled_bytes"))], ["bytes of the last delta", compact(last("weights/delta_bytes"))], ["bytes of the whole model", compact(last("weights/full_bytes"))]].filter(([, value]) => value !== "–");
  return section("weights", "Weight updates", "From a step's end until every actor samples with the new version; generation goes on meanwhile.", grid([
    lineChart({ title: "Seconds per version", lines: linesOf(["weights/publish_s", "broadcast"], ["weights/critical_s", "of it, the learner waits"], ["weights/encode_s", "deltas"], ["actor/weights_s", "actors pause, all together"], ["actor/pull_s", "actors pull"]), low: 0 }),
    lineChart({ title: "Versions that actors are behind", lines: linesOf(["weights/lag_mean", "mean"], ["weights/lag_max", "largest"]), low: 0 }),
    lineChart({ title: "Bytes per version", lines: linesOf(["weights/delta_bytes", "delta"], ["weights/full_bytes", "whole model"]), low: 0 }),
    lineChart({ title: "Actors", lines: linesOf(["actor/num_actors", "connected"]), low: 0 }),
    counted.length ? el("div", { class: "card" }, el("h3", {}, "Over the run"), table([{ name: "what" }, { name: "count", n: true }], counted)) : null,
  ]));
}

function ledger({ run }) {
  const states = Object.entries(run.ledger).filter(([name]) => name !== "total"), total = run.ledger.total;
  const law = states.length ? `${whole(total)} tickets = ${states.map(([name, count]) => `${whole(count)} ${name}`).join(" + ")}` : "";
  const counters = Object.entries(run.counters).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const balanced = run.balanced ?? (states.length ? states.reduce((sum, [, count]) => sum + count, 0) === total : null);
  return section("ledger", "Ledger", "Every ticket is in exactly one state; filtered groups had equal rewards, which teach nothing.",
    states.length ? el("div", { class: "card" }, el("h3", {}, "Tickets"), shareBar(states.map(([name, value]) => ({ name, value, color: STATE_COLORS[name] || GREY })), whole),
      el("p", { class: balanced ? "good" : "bad", style: { margin: "6px 0 0" } }, `${law}: ${balanced ? "balanced" : "NOT BALANCED"}`)) : null,
    grid([
      lineChart({ title: "Groups per step without signal", lines: linesOf(["buffer/filtered", "filtered"], ["buffer/bypassed", "trained all the same"]), low: 0 }),
      counters.length ? el("div", { class: "card" }, el("h3", {}, "Counters of the buffer that are not 0"), table([{ name: "counter" }, { name: "count", n: true }], counters.map(([name, count]) => [name, whole(count)]))) : null,
    ], "two"));
}

// --- every metric, settings --------------------------------------------------------------------------------------------

function everyMetric() {
  const names = Object.keys(columns.names).sort(), host = el("div", { class: "grid", id: "metric-charts" });
  if (!names.length) return section("metrics", "Every metric", null);
  const show = (wanted) => {
    for (const chart of [...charts]) if (chart.picked) charts.splice(charts.indexOf(chart), 1);
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length ? names.filter((name) => words.every((word) => name.toLowerCase().includes(word))) : [];
    const before = charts.length;
    host.replaceChildren(...found.slice(0, 12).map((name) => lineChart({ title: name, lines: [{ name: "", values: column(name) }] })).filter(Boolean));
    charts.slice(before).forEach((chart) => { chart.picked = true; chart.draw(); });
    count.textContent = words.length ? `${found.length} of ${names.length}${found.length > 12 ? ", 12 are drawn" : ""}` : `${names.length} metrics${columns.left_out ? `, ${columns.left_out} more in metrics.jsonl` : ""}`;
  };
  const count = el("span", { class: "small", role: "status" });
  const input = el("input", { type: "search", id: "metric-search", list: "metric-names", placeholder: "part of a name, such as perf/ or kl", "aria-label": "Metrics by name", style: { width: "340px" }, oninput: (event) => show(event.target.value) });
  show("");
  return section("metrics", "Every metric", "All numbers of metrics.jsonl; docs/metrics.md says what they mean.", el("div", { class: "controls" }, input, el("datalist", { id: "metric-names" }, names.map((name) => el("option", { value: name }))), count), host);
}

function settings(data) {
  if (!data.config) return section("settings", "Settings", null);
  return section("settings", "Settings", "config.yaml of the last start of the run; it is a recipe.", el("details", { class: "card" }, el("summary", {}, "Show all"), el("div", { class: "scroll" }, el("pre", {}, data.config))));
}
