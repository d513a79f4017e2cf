// Making and keeping elements. Text goes in as text, never as markup, so nothing that a replica says can become part of the page.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element; attributes whose value is null or false are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The name of the icon of a replica of this kind. */
export function iconOf(kind) {
  return { process: "i-process", upstream: "i-upstream" }[kind] ?? "i-container";
}

/** A symbol of index.html's sprite; it says nothing to a screen reader, the text next to it does. */
export function icon(name, size = 16) {
  return svg("svg", { class: `icon ${name}`, width: size, height: size, "aria-hidden": "true" }, svg("use", { href: `#${name}` }));
}

/** Set what differs and nothing else, so that a second's update costs what has changed. */
export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      if (node.hasAttribute(name)) node.removeAttribute(name);
    } else if (node.getAttribute(name) !== String(value)) {
      node.setAttribute(name, value);
    }
  }
  return node;
}

export function text(node, value) {
  const wanted = String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
  return node;
}

/** Let `parent` hold one element per item, in their order: known keys keep their element, and with it focus and hover. */
export function keyed(parent, items, keyOf, make, update) {
  const known = (parent.kept ??= new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  while (place && !known.has(place.dataset?.key)) place = place.nextElementSibling;
  for (const item of items) {
    const key = String(keyOf(item));
    wanted.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      node.dataset.key = key;
      known.set(key, node);
    }
    if (node !== place) parent.insertBefore(node, place);
    else place = place.nextElementSibling;
    update(node, item);
  }
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}

function fill(node, attributes, children) {
  set(node, attributes);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
