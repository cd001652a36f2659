// Hold every dashboard against the types of @grafana/schema with tsc; then see that a wrong field would be noticed.
//
// npm install --no-package-lock && npm run lint
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dashboards = join(here, "..", "dashboards");
const build = join(here, "build");
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");

const settings = ["--noEmit", "--strict", "--skipLibCheck", "--module", "preserve", "--moduleResolution", "bundler"];
const cases = [
  ["a panel's option", (d) => { stat(d).options.colourMode = "background"; }],
  ["a value of an option", (d) => { stat(d).options.colorMode = "behind"; }],
  ["a field of the dashboard", (d) => { d.editible = false; }],
  ["a way to stack", (d) => { lines(d).fieldConfig.defaults.custom.stacking.mode = "stacked"; }],
  ["a kind of mapping", (d) => { d.panels.find((p) => p.fieldConfig?.defaults.mappings.length).fieldConfig.defaults.mappings[0].type = "word"; }],
  ["a query's format", (d) => { stat(d).targets[0].format = "lines"; }],
  ["a place", (d) => { stat(d).gridPos.width = 3; }],
];

const stat = (dashboard) => dashboard.panels.find((panel) => panel.type === "stat");
const lines = (dashboard) => dashboard.panels.find((panel) => panel.type === "timeseries");

function written(name, dashboard) {
  const { panels, ...rest } = dashboard;
  const typed = panels.map((panel, i) => `export const panel${i}: ${kind(panel)} = ${JSON.stringify(panel, null, 1)};`);
  const file = join(build, `${name}.ts`);
  const text = `import type { Board, Row, Panels } from "../shapes";\nexport const board: Board = ${JSON.stringify(rest)};`;
  writeFileSync(file, [text, ...typed].join("\n") + "\n");
  return file;
}

const kind = (panel) => (panel.type === "row" ? "Row" : `Panels[${JSON.stringify(panel.type)}]`);

function checked(files) {
  const done = spawnSync(process.execPath, [tsc, ...settings, ...files], { cwd: here, encoding: "utf8" });
  return { ok: done.status === 0, said: done.stdout + done.stderr };
}

rmSync(build, { recursive: true, force: true });
mkdirSync(build);
const found = readdirSync(dashboards).filter((name) => name.endsWith(".json"));
const read = (name) => JSON.parse(readFileSync(join(dashboards, name), "utf8"));
const all = checked(found.map((name) => written(basename(name, ".json"), read(name))));
if (!all.ok) {
  console.error(all.said);
  process.exit(1);
}
console.log(`${found.length} dashboards fit the types of @grafana/schema`);

const planted = cases.map(([, spoil], i) => {
  const dashboard = read("oncall.json");
  spoil(dashboard);
  return written(`planted${i}`, dashboard);
});
const { said } = checked(planted);
const missed = cases.filter((_, i) => !said.includes(`build/planted${i}.ts`)).map(([what]) => what);
rmSync(build, { recursive: true, force: true });
if (missed.length) {
  console.error(`not noticed when wrong: ${missed.join(", ")}`);
  process.exit(1);
}
console.log(`${cases.length} planted faults were noticed`);
