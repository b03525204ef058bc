// Text that cannot be read: beside the screen, in a box that hides it, or over other text of the picture.
() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  const wide = document.documentElement.scrollWidth;
  if (wide > width) found.push(`the page is ${wide} wide on a screen of ${width}`);

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (!text.textContent.trim() || text.parentElement.closest(".hidden, .skip, title, script")) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    for (const box of range.getClientRects()) {
      if (box.width && (box.left < -1 || box.right > width + 1)) found.push(`beside the screen: ${text.textContent}`);
    }
  }

  for (const box of document.querySelectorAll("body *:not(.hidden, svg *)")) {
    const hides = ["hidden", "clip"].includes(getComputedStyle(box).overflowX);
    if (hides && box.scrollWidth > box.clientWidth + 1) found.push(`cut: ${box.textContent.trim().slice(0, 100)}`);
  }

  const drawn = [...document.querySelectorAll(".timeline text")]
    .map((text) => ({ words: text.textContent, box: text.getBoundingClientRect() }))
    .filter(({ box }) => box.width);
  drawn.forEach((one, place) => {
    for (const other of drawn.slice(place + 1)) {
      const across = one.box.left < other.box.right && other.box.left < one.box.right;
      const down = one.box.top + 2 < other.box.bottom && other.box.top + 2 < one.box.bottom;
      if (across && down) found.push(`${one.words} over ${other.words}`);
    }
  });
  return found;
}
