// Rows of equal height that fill the width: pictures keep their shapes.

// ratios: width / height of each picture. Returns {height, widths} a row; all in pixels. A row is closed as soon as it
// would be no higher than `target`; the last one is left open at `target`.
export function justified(ratios, width, target, gap) {
  const rows = [];
  let row = [];
  let sum = 0;
  for (const ratio of ratios) {
    row.push(ratio);
    sum += ratio;
    const room = width - gap * (row.length - 1);
    if (room / sum <= target) {
      rows.push(filled(row, room, sum));
      row = [];
      sum = 0;
    }
  }
  if (row.length) rows.push({ height: target, widths: row.map((ratio) => Math.floor(ratio * target)) });
  return rows;
}

// Whole pixels: the last picture takes what rounding left over.
function filled(row, room, sum) {
  const height = room / sum;
  const widths = row.map((ratio) => Math.floor(ratio * height));
  widths[widths.length - 1] += Math.floor(room) - widths.reduce((total, one) => total + one, 0);
  return { height: Math.round(height), widths };
}

// Very tall and very wide pictures are shown within these shapes, so that a caption fits under each.
export function shapeOf(width, height) {
  if (!(width > 0 && height > 0)) return 1;
  return Math.min(2.4, Math.max(0.66, width / height));
}
