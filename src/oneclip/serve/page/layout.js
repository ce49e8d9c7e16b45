// Rows of images of equal height that fill the width (justified layout).

export const GAP = 4; // pixels between images
const [NARROWEST, WIDEST] = [0.55, 2.4]; // aspect ratios; others are cropped

/** Return the wanted height of a row, in pixels: seven images across a screen, three across a phone. */
export const rowHeight = (width) => Math.max(124, Math.min(190, width / 7));

/**
 * Place the images of a block. All rows but the last one of the last block fill the width. Returns the box of each
 * image, the height of the block with the gap below it, and the sum of the aspect ratios.
 */
export function placeImages(hits, width, isLast) {
  const target = rowHeight(width);
  const perRow = width / target; // sum of the aspect ratios of a row
  const aspects = hits.map((hit) => Math.min(WIDEST, perRow, Math.max(NARROWEST, hit.width / hit.height)));
  const total = aspects.reduce((sum, aspect) => sum + aspect, 0);
  const span = isLast ? perRow : total / Math.max(1, Math.round(total / perRow));
  const rows = [];
  let sum = 0;
  aspects.forEach((aspect, i) => {
    (rows[Math.floor((sum + aspect / 2) / span)] ??= []).push(i);
    sum += aspect;
  });
  const boxes = [];
  let y = 0;
  rows.forEach((row, number) => {
    let height = (width - GAP * (row.length - 1)) / row.reduce((all, i) => all + aspects[i], 0);
    if (isLast && number === rows.length - 1) height = Math.min(height, target * 1.1);
    let x = 0;
    for (const i of row) {
      boxes.push({ x, y, width: height * aspects[i], height });
      x += height * aspects[i] + GAP;
    }
    y += height + GAP;
  });
  return { boxes, height: y, aspects: total };
}
