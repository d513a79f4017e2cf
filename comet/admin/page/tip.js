// The page's only tooltip, placed next to its anchor and within the window.

export class Tip {
  constructor(box) {
    this.box = box;
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    window.addEventListener("scroll", () => this.hide(), { passive: true, capture: true });
  }

  show(anchor, title, body) {
    const heading = document.createElement("strong");
    heading.textContent = title;
    this.box.replaceChildren(heading, ...body);
    this.box.hidden = false;
    const at = anchor.getBoundingClientRect();
    const [width, height] = [this.box.offsetWidth, this.box.offsetHeight];
    const left = Math.max(8, Math.min(at.left + at.width / 2 - width / 2, document.documentElement.clientWidth - width - 8));
    const above = at.top - height - 10;
    this.box.style.left = `${left}px`;
    this.box.style.top = `${above > 4 ? above : Math.min(at.bottom + 10, window.innerHeight - height - 4)}px`;
  }

  hide() {
    this.box.hidden = true;
  }
}
