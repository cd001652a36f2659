// Lay out a dashboard by gridPos and draw its panels with Grafana's UI library, from answers that were asked before.
//
// window.drawn = {board, answers, from, to, caption}; answers: per panel id and refId, what Prometheus said.
import {
  createTheme,
  DataFrame,
  dateTime,
  Field,
  FieldConfigSource,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayValues,
  GrafanaTheme2,
  ThemeContext,
  TimeRange,
} from "@grafana/data";
import {
  BarGauge,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  BarGaugeDisplayMode,
  GlobalStyles,
  PanelChrome,
  TimeSeries,
} from "@grafana/ui";
import { Fragment, ReactNode } from "react";
import { createRoot } from "react-dom/client";

interface Series {
  metric: Record<string, string>;
  value?: [number, string];
  values?: [number, string][];
}
interface Target {
  refId: string;
  legendFormat: string;
}
interface Panel {
  id: number;
  type: string;
  title: string;
  description: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets: Target[];
  fieldConfig: FieldConfigSource;
  options: any;
  transformations: { id: string; options: any }[];
}
interface Drawn {
  board: { title: string; panels: Panel[] };
  answers: Record<string, Record<string, Series[]>>;
  marks: { time: number; text: string }[];
  from: number;
  to: number;
  caption: string;
  width: number;
}

const drawn: Drawn = (window as any).drawn;
const theme: GrafanaTheme2 = createTheme({ colors: { mode: "dark" } });
const UNIT = { height: 30, gap: 8 };
const LINES = {
  drawStyle: "line",
  lineInterpolation: "linear",
  axisPlacement: "auto",
  axisLabel: "",
  scaleDistribution: { type: "linear" },
  hideFrom: { viz: false, legend: false, tooltip: false },
};
const range: TimeRange = {
  from: dateTime(drawn.from * 1000),
  to: dateTime(drawn.to * 1000),
  raw: { from: dateTime(drawn.from * 1000), to: dateTime(drawn.to * 1000) },
};

function legendOf(target: Target, labels: Record<string, string>): string {
  return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "");
}

// What Grafana does with `defaults` and `overrides` for a field of this name.
function configured(panel: Panel, name: string): Field["config"] {
  const { defaults, overrides } = panel.fieldConfig;
  const config: any = { ...defaults, displayName: name, custom: { ...LINES, ...(defaults.custom as object) } };
  for (const { matcher, properties } of overrides) {
    const fits = matcher.id === "byName" ? matcher.options === name : new RegExp(`^${matcher.options}$`).test(name);
    for (const { id, value } of fits ? properties : []) {
      if (id.startsWith("custom.")) {
        config.custom[id.slice("custom.".length)] = value;
      } else {
        config[id] = value;
      }
    }
  }
  return config;
}

function fieldOf(panel: Panel, name: string, type: FieldType, values: unknown[], seriesIndex = 0): Field {
  const field: Field = { name, type, values, config: configured(panel, name), state: { seriesIndex } };
  field.display = getDisplayProcessor({ field, theme });
  return field;
}

function framesOf(panel: Panel): DataFrame[] {
  let seriesIndex = 0; // gives each line its colour of the palette
  return panel.targets.flatMap((target) =>
    drawn.answers[panel.id][target.refId].map((series) => {
      const points = series.values ?? [series.value!];
      const time: Field = { name: "time", type: FieldType.time, values: points.map(([at]) => at * 1000), config: {} };
      const name = legendOf(target, series.metric);
      return {
        refId: target.refId,
        length: points.length,
        fields: [time, fieldOf(panel, name, FieldType.number, points.map(([, value]) => finite(value)), seriesIndex++)],
      };
    }),
  );
}

// What is not a number is a gap.
const finite = (text: string) => (Number.isFinite(Number(text)) ? Number(text) : null);

function NoData({ panel }: { panel: Panel }) {
  return <div className="none">{panel.fieldConfig.defaults.noValue}</div>;
}

function Lines({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const frames = framesOf(panel);
  if (!frames.length) {
    return <NoData panel={panel} />;
  }
  const marks = (config: any): ReactNode => {
    config.addHook("draw", (plot: any) => drawn.marks.forEach((mark) => line(plot, mark.time * 1000)));
    return null;
  };
  return (
    <TimeSeries
      frames={frames}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
    >
      {marks}
    </TimeSeries>
  );
}

function line(plot: any, time: number) {
  const x = Math.round(plot.valToPos(time, "x", true));
  if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) {
    return;
  }
  plot.ctx.save();
  plot.ctx.strokeStyle = theme.visualization.getColorByName("blue");
  plot.ctx.setLineDash([6, 4]);
  plot.ctx.beginPath();
  plot.ctx.moveTo(x, plot.bbox.top);
  plot.ctx.lineTo(x, plot.bbox.top + plot.bbox.height);
  plot.ctx.stroke();
  plot.ctx.restore();
}

function Tiles({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const values = getFieldDisplayValues({
    data: framesOf(panel),
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
  });
  return (
    <div style={{ display: "flex", gap: 4 }}>
      {values.map((value, i) =>
        panel.type === "bargauge" ? null : (
          <BigValue
            key={i}
            theme={theme}
            width={(width - 4 * (values.length - 1)) / values.length}
            height={height}
            value={value.display}
            colorMode={BigValueColorMode.Background}
            graphMode={BigValueGraphMode.None}
            justifyMode={BigValueJustifyMode.Center}
            textMode={panel.options.textMode === "auto" && values.length === 1 ? BigValueTextMode.Value : panel.options.textMode}
          />
        ),
      )}
    </div>
  );
}

function Bars({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const fields = framesOf(panel).map((frame) => frame.fields[1]);
  return (
    <>
      {fields.map((field) => (
        <BarGauge
          key={field.name}
          theme={theme}
          width={width}
          height={Math.min(60, height / fields.length)}
          field={field.config}
          display={field.display}
          value={{ ...field.display!(field.values.at(-1)), title: field.name }}
          displayMode={BarGaugeDisplayMode.Basic}
          orientation={panel.options.orientation}
          itemSpacing={8}
        />
      ))}
    </>
  );
}

function TableOf({ panel }: { panel: Panel }) {
  const series = panel.targets.flatMap((target) => drawn.answers[panel.id][target.refId]);
  if (!series.length) {
    return <NoData panel={panel} />;
  }
  const { excludeByName, renameByName } = panel.transformations[0].options;
  const labels = [...new Set(series.flatMap((one) => Object.keys(one.metric)))].filter((name) => name !== "__name__");
  const names = [...labels, ...(excludeByName.Value ? [] : ["Value"])];
  const fields = names.map((name) => {
    const values = series.map((one) => (name === "Value" ? Number(one.value![1]) : (one.metric[name] ?? "")));
    return fieldOf(panel, renameByName[name] ?? name, name === "Value" ? FieldType.number : FieldType.string, values);
  });
  return (
    <table>
      <thead>
        <tr>{fields.map((field) => <th key={field.name}>{field.name}</th>)}</tr>
      </thead>
      <tbody>
        {series.map((_, row) => (
          <tr key={row}>{fields.map((field) => <Cell key={field.name} field={field} row={row} />)}</tr>
        ))}
      </tbody>
    </table>
  );
}

function Cell({ field, row }: { field: Field; row: number }) {
  const shown = field.display!(field.values[row]);
  const coloured = field.config.custom?.cellOptions?.type === "color-background";
  const background = shown.color ?? theme.colors.background.primary;
  return <td style={coloured ? { background, color: theme.colors.getContrastText(background) } : {}}>{`${shown.prefix ?? ""}${shown.text}${shown.suffix ?? ""}`}</td>;
}

// Grafana's own is not in its UI library: a line for each series, a bar for each time that it was there without a gap.
function Timeline({ panel, width }: { panel: Panel; width: number }) {
  const frames = framesOf(panel);
  const place = (time: number) => ((time / 1000 - drawn.from) / (drawn.to - drawn.from)) * (width - 250);
  return (
    <div className="timeline">
      {frames.map(({ fields: [time, value] }, i) => (
        <div key={i}>
          <span>{value.name}</span>
          {stretches(value.values).map(([first, last]) => {
            const [begin, end] = [place(time.values[first]), place(time.values[last])];
            const shown = value.display!(value.values[last]);
            const bar = { left: 245 + begin, width: Math.max(end - begin, 2), background: shown.color };
            return <b key={first} style={bar}>{end - begin < 40 ? "" : shown.text}</b>;
          })}
        </div>
      ))}
      {!frames.length && <NoData panel={panel} />}
    </div>
  );
}

// The first and the last place of each run of values that are there.
function stretches(values: unknown[]): [number, number][] {
  const found: [number, number][] = [];
  values.forEach((value, i) => {
    if (value === null) {
      return;
    }
    if (i && values[i - 1] !== null) {
      found[found.length - 1][1] = i;
    } else {
      found.push([i, i]);
    }
  });
  return found;
}

function Inside({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  switch (panel.type) {
    case "timeseries":
      return <Lines {...{ panel, width, height }} />;
    case "table":
      return <TableOf panel={panel} />;
    case "bargauge":
      return <Bars {...{ panel, width, height }} />;
    case "state-timeline":
      return <Timeline {...{ panel, width }} />;
    default:
      return <Tiles {...{ panel, width, height }} />;
  }
}

function Placed({ panel }: { panel: Panel }) {
  const column = (drawn.width - 2 * UNIT.gap) / 24;
  const { x, y, w, h } = panel.gridPos;
  const size = { width: w * column - UNIT.gap, height: h * (UNIT.height + UNIT.gap) - UNIT.gap };
  const place = { left: UNIT.gap + x * column, top: y * (UNIT.height + UNIT.gap), ...size };
  if (panel.type === "row") {
    return <h2 style={{ ...place, lineHeight: `${size.height}px` }}>{panel.title}</h2>;
  }
  return (
    <div className="panel" style={place}>
      <PanelChrome title={panel.title} {...size}>
        {(width, height) => <Inside {...{ panel, width, height }} />}
      </PanelChrome>
    </div>
  );
}

function Board() {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <header>
        <b>{drawn.board.title}</b>
        <span>{drawn.caption}</span>
      </header>
      <main>{drawn.board.panels.map((panel) => <Fragment key={panel.id}><Placed panel={panel} /></Fragment>)}</main>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById("root")!).render(<Board />);
