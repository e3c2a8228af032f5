/**
 * Lines over one axis, side by side, as SVG.
 */
import { LineChart } from "echarts/charts"
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components"
import * as echarts from "echarts/core"
import { SVGRenderer } from "echarts/renderers"

export interface Plot {
  /** Without its ending. */
  readonly file: string
  /** The question that it answers. */
  readonly title: string
  /** What a reader must know of the names. */
  readonly note: string
  readonly x: {
    readonly name: string
    /** What the ticks are powers of, both axes being logarithmic; linear, if left out. */
    readonly base?: number | undefined
    readonly ticks: ReadonlyArray<number>
    /** Compact, if left out. */
    readonly label?: ((value: number) => string) | undefined
  }
  readonly panels: ReadonlyArray<{ readonly name: string }>
  readonly series: ReadonlyArray<{
    readonly name: string
    readonly isReference: boolean
    /** A value for each panel. */
    readonly points: ReadonlyArray<{ readonly x: number; readonly values: ReadonlyArray<number> }>
  }>
}

echarts.use([LineChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer])

// Told apart by the colour-blind, too (Okabe and Ito); what is compared with is grey and dashed.
const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
const greys = ["#222222", "#888888"]
const symbols = ["circle", "rect", "triangle", "diamond", "roundRect", "pin"]

const [width, height] = [1_080, 640]
const [left, right, top, bottom, between] = [74, 34, 136, 104, 84]

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 })

/** Draws it. */
export const draw = ({ note, panels, series, title, x }: Plot, subtitle: string): string => {
  const panelWidth = (width - left - right - between * (panels.length - 1)) / panels.length
  const scale = x.base === undefined ? ({ type: "value" } as const) : ({ type: "log", logBase: x.base } as const)
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height })
  const own = series.filter(({ isReference }) => !isReference)
  const references = series.filter(({ isReference }) => isReference)
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    textStyle: { fontFamily: "Helvetica, Arial, DejaVu Sans, sans-serif" },
    title: {
      text: title,
      subtext: `${subtitle}\n${note}`,
      left: 20,
      top: 14,
      itemGap: 8,
      textStyle: { fontSize: 20, color: "#111111" },
      subtextStyle: { fontSize: 12, lineHeight: 16, color: "#555555" }
    },
    legend: {
      bottom: 14,
      itemWidth: 36,
      itemGap: 20,
      textStyle: { fontSize: 13 },
      data: series.map(({ name }) => name)
    },
    grid: panels.map((_, panel) => ({
      left: left + panel * (panelWidth + between),
      top,
      width: panelWidth,
      height: height - top - bottom
    })),
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
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}
