/**
 * Lines over one axis or bars, in panels side by side, as SVG.
 */
import { BarChart, LineChart } from "echarts/charts"
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components"
import * as echarts from "echarts/core"
import { SVGRenderer } from "echarts/renderers"

interface Figure {
  /** Without its ending. */
  readonly file: string
  /** The question that it answers. */
  readonly title: string
  /** What a reader must know of the names. */
  readonly note: string
  readonly panels: ReadonlyArray<{ readonly name: string }>
}

export interface Plot extends Figure {
  readonly x: {
    readonly name: string
    /** What the ticks are powers of, both axes being logarithmic; linear, if left out. */
    readonly base?: number | undefined
    readonly ticks: ReadonlyArray<number>
    /** Compact, if left out. */
    readonly label?: ((value: number) => string) | undefined
  }
  readonly series: ReadonlyArray<{
    readonly name: string
    readonly isReference: boolean
    /** A value for each panel. */
    readonly points: ReadonlyArray<{ readonly x: number; readonly values: ReadonlyArray<number> }>
  }>
}

export interface Bars extends Figure {
  /** From top to bottom, with a value for each panel, if there is one. */
  readonly bars: ReadonlyArray<{
    readonly name: string
    readonly isReference: boolean
    readonly values: ReadonlyArray<number | undefined>
  }>
}

echarts.use([BarChart, LineChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer])

// Told apart by the colour-blind, too (Okabe and Ito); what is compared with is grey and dashed.
const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
const greys = ["#222222", "#888888"]
const symbols = ["circle", "rect", "triangle", "diamond", "roundRect", "pin"]

const [width, height] = [1_080, 640]
const [left, right, top, bottom, between] = [74, 34, 136, 104, 84]
// What is left to those of bars, wider than they are measured, as fonts differ.
const names = 330

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 })

/** Draws it. */
export const draw = (plot: Plot | Bars, subtitle: string): string => {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height })
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    textStyle: { fontFamily: "Helvetica, Arial, DejaVu Sans, sans-serif" },
    title: {
      text: plot.title,
      subtext: `${subtitle}\n${plot.note}`,
      left: 20,
      top: 14,
      itemGap: 8,
      textStyle: { fontSize: 20, color: "#111111" },
      subtextStyle: { fontSize: 12, lineHeight: 16, color: "#555555" }
    },
    ...("bars" in plot ? bars(plot) : lines(plot))
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}

// Beside one another, within what is left to the names on the left and to the axes below.
const grids = (count: number, before: number, below: number) => {
  const panelWidth = (width - before - right - between * (count - 1)) / count
  return Array.from({ length: count }, (_, panel) => ({
    left: before + panel * (panelWidth + between),
    top,
    width: panelWidth,
    height: height - top - below
  }))
}

const lines = ({ panels, series, x }: Plot) => {
  const scale = x.base === undefined ? ({ type: "value" } as const) : ({ type: "log", logBase: x.base } as const)
  const own = series.filter(({ isReference }) => !isReference)
  const references = series.filter(({ isReference }) => isReference)
  return {
    legend: {
      bottom: 14,
      itemWidth: 36,
      itemGap: 20,
      textStyle: { fontSize: 13 },
      data: series.map(({ name }) => name)
    },
    grid: grids(panels.length, left, bottom),
    xAxis: panels.map((_, gridIndex) => ({
      gridIndex,
      ...scale,
      min: x.ticks[0],
      max: x.ticks.at(-1),
      name: x.name,
      nameLocation: "middle",
      nameGap: 30,
      nameTextStyle: { fontSize: 13, color: "#333333" },
      axisTick: { customValues: x.ticks },
      axisLabel: { customValues: x.ticks, formatter: x.label ?? compact.format, fontSize: 12, color: "#333333" },
      splitLine: { show: false }
    })),
    yAxis: panels.map(({ name }, gridIndex) => ({
      gridIndex,
      type: scale.type,
      name,
      nameLocation: "end",
      nameTextStyle: { fontSize: 13, color: "#333333", align: "left" },
      axisLabel: { formatter: compact.format, fontSize: 12, color: "#333333" },
      minorSplitLine: { show: true, lineStyle: { color: "#f2f2f2" } },
      splitLine: { lineStyle: { color: "#d8d8d8" } }
    })),
    series: panels.flatMap((_, panel) =>
      series.map((line) => {
        const which = line.isReference ? references.indexOf(line) : own.indexOf(line)
        const color = line.isReference ? greys[which % greys.length] : colours[which % colours.length]
        return {
          type: "line",
          name: line.name,
          xAxisIndex: panel,
          yAxisIndex: panel,
          data: line.points.map(({ values, x }) => [x, values[panel]]),
          symbol: line.isReference ? "emptyCircle" : symbols[which % symbols.length],
          symbolSize: 8,
          lineStyle: { width: 2, type: line.isReference ? "dashed" : "solid" },
          color
        }
      })
    )
  }
}

const bars = ({ bars, panels }: Bars) => ({
  grid: grids(panels.length, names, left),
  xAxis: panels.map(({ name }, gridIndex) => ({
    gridIndex,
    type: "value",
    name,
    nameLocation: "middle",
    nameGap: 30,
    nameTextStyle: { fontSize: 13, color: "#333333" },
    axisLabel: { formatter: compact.format, fontSize: 12, color: "#333333" },
    splitLine: { lineStyle: { color: "#d8d8d8" } }
  })),
  yAxis: panels.map((_, gridIndex) => ({
    gridIndex,
    type: "category",
    inverse: true,
    data: bars.map(({ name }) => name),
    axisLabel: { show: gridIndex === 0, width: names - 70, overflow: "break", interval: 0, color: "#333333" }
  })),
  series: panels.map((_, panel) => ({
    type: "bar",
    xAxisIndex: panel,
    yAxisIndex: panel,
    barMaxWidth: 22,
    data: bars.map(({ isReference, values }) => ({
      value: values[panel],
      itemStyle: { color: isReference ? greys[1] : colours[0] }
    })),
    label: { show: true, position: "right", color: "#333333", formatter: ({ value }: any) => compact.format(value) }
  }))
})
