// What docs/deploy/grafana may say, by the types of Grafana's own package; and nothing else, since a word that Grafana
// does not know is a setting that does nothing.
import type * as grafana from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// As JSON has it: the value of an enumeration's member in its place.
type Json<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer Item>
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

// Grafana has these with its Prometheus data source, whose types are not in the package.
interface Query extends Omit<grafana.DataQuery, 'datasource'> {
  datasource: grafana.DataSourceRef;
  expr: string;
  legendFormat?: string;
  instant?: boolean;
}
interface Annotation extends Omit<grafana.AnnotationQuery, 'target'> {
  target: { refId: string; expr: string; interval: string };
  titleFormat: string;
}
interface Variable extends Omit<grafana.VariableModel, 'query'> {
  query: string | { query: string; refId: string };
}

interface Field<Custom> extends Omit<grafana.FieldConfigSource, 'defaults'> {
  defaults: Omit<grafana.FieldConfig, 'custom'> & { custom?: Custom };
}
interface Panel<Type extends string, Options, Custom>
  extends Omit<grafana.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> {
  type: Type;
  options: Partial<Options>;
  fieldConfig: Field<Custom>;
  targets: Query[];
}
type AnyPanel =
  | Panel<'stat', stat.Options, never>
  | Panel<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | Omit<grafana.RowPanel, 'datasource'>;

export type Dashboard = Json<
  Omit<grafana.Dashboard, 'panels' | 'annotations' | 'templating'> & {
    panels: AnyPanel[];
    annotations: { list: Annotation[] };
    templating: { list: Variable[] };
  }
>;
