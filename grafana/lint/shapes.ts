// What a dashboard of ours is: Grafana's types, with the text of an enumeration where JSON has text.
import type { Dashboard, GraphFieldConfig, Panel, RowPanel, TableFieldOptions } from "@grafana/schema";
import type { Options as BarGauge } from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as StateTimeline } from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type { Options as Table } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { Options as TimeSeries } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// An enumeration of strings takes only its members in TypeScript; in a file it is their text.
type Plain<T> = T extends string
  ? `${T}`
  : T extends readonly (infer One)[]
    ? Plain<One>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

// Of Prometheus' own queries and marks, which @grafana/schema leaves open.
interface Query {
  refId: string;
  datasource: { type: "prometheus"; uid: string };
  expr: string;
  legendFormat: string;
  editorMode: "code" | "builder";
  instant: boolean;
  range: boolean;
  format: "time_series" | "table" | "heatmap";
}
interface Marks {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  useValueForTime: boolean;
}

type Defaults = NonNullable<NonNullable<Panel["fieldConfig"]>["defaults"]>;
interface Link {
  title: string;
  url: string;
  targetBlank: boolean;
}
type Fields<Custom> = {
  defaults: Plain<Omit<Defaults, "custom" | "links">> & { custom?: Plain<Custom>; links?: Link[] };
  overrides: Plain<NonNullable<Panel["fieldConfig"]>["overrides"]>;
};
type Of<Name extends string, Options, Custom = never> = Plain<
  Omit<Panel, "type" | "options" | "fieldConfig" | "targets" | "links">
> & {
  type: Name;
  options: Partial<Plain<Options>>;
  fieldConfig: Fields<Custom>;
  targets: Query[];
};

export interface Panels {
  stat: Of<"stat", Stat>;
  timeseries: Of<"timeseries", TimeSeries, GraphFieldConfig>;
  table: Of<"table", Table, TableFieldOptions>;
  bargauge: Of<"bargauge", BarGauge>;
  "state-timeline": Of<"state-timeline", StateTimeline>;
}
type Annotation = NonNullable<NonNullable<Dashboard["annotations"]>["list"]>[number];
export type Board = Plain<Omit<Dashboard, "panels" | "annotations">> & {
  annotations: { list: (Plain<Annotation> & Marks)[] };
};
export type Row = Plain<Omit<RowPanel, "panels">> & { panels: never[] };
