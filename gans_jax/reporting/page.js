'use strict';
// Draws the curves, moves the sample grids through time. No library.
(() => {
  const read = (id) => {
    const block = document.getElementById(id);
    return block ? JSON.parse(block.textContent) : null;
  };
  const SVG = 'http://www.w3.org/2000/svg';
  const HEIGHT = 220;
  const LEFT = 54;
  const RIGHT = 10;
  const TOP = 8;
  const BOTTOM = 24;
  const COLOURS = 8;
  const DASHES = ['', '6 3', '2 3', '9 3 2 3'];

  function svg(name, attributes, parent) {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.append(element);
    return element;
  }

  function html(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    element.append(...children);
    return element;
  }

  function swatch(line) {
    const dash = Math.floor(line.colour / COLOURS) % DASHES.length;
    return html('i', {
      class: `swatch c${line.colour % COLOURS} d${dash}`});
  }

  function format(value) {
    if (value === null || !isFinite(value)) return 'not finite';
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-3)) {
      return value.toExponential(2);
    }
    return String(Number(value.toPrecision(4)));
  }

  // Averages as TensorBoard does: without a bias towards 0 at the beginning.
  function smooth(values, weight) {
    let sum = 0;
    let norm = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  }

  function linearTicks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((x) => x * power)
        .find((x) => x >= rough * 0.999);
    const ticks = [];
    // By index: to add steps up would leave 0.30000000000000004.
    for (let i = Math.ceil(low / step); i <= high / step * (1 + 1e-9); i++) {
      ticks.push(Number((i * step).toPrecision(12)));
      if (ticks.length > 50) break;
    }
    return ticks;
  }

  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] : [1, 2, 3, 5, 7];
    const every = Math.max(1, Math.round(decades / 5));
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      if (p % every) continue;
      for (const f of factors) {
        const tick = Number(`${f}e${p}`);
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    return ticks.length > 1 ? ticks : linearTicks(low, high, 4);
  }

  function nearest(sorted, value) {
    let low = 0;
    let high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low > 0 && value - sorted[low - 1] <= sorted[low] - value ?
        low - 1 : low;
  }

  const state = {over: 'kimg', smooth: 0, log: false, hidden: new Set()};
  const panels = [];

  class Panel {
    constructor(figure, content) {
      this.content = content;
      this.plot = figure.querySelector('.plot');
      this.tip = html('div', {class: 'tip', hidden: ''});
      this.note = html('div', {class: 'note quiet'});
      this.at = null;
      const move = (event) => {
        const box = this.plot.getBoundingClientRect();
        this.point(this.toX(event.clientX - box.left));
      };
      this.plot.addEventListener('pointermove', move);
      this.plot.addEventListener('pointerdown', move);
      this.plot.addEventListener('pointerleave', () => this.point(null));
      this.plot.addEventListener('blur', () => this.point(null));
      this.plot.addEventListener('keydown', (event) => {
        const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
        if (event.key === 'Escape') this.point(null);
        if (!by) return;
        event.preventDefault();
        const all = this.positions();
        if (!all.length) return;
        const i = this.at === null ? (by > 0 ? -1 : all.length) :
            nearest(all, this.at);
        this.point(all[Math.min(all.length - 1, Math.max(0, i + by))]);
      });
      new ResizeObserver(() => this.draw()).observe(this.plot);
    }

    visible() {
      return this.content.lines.filter((l) => !state.hidden.has(l.key));
    }

    // A measured metric is no noise to be averaged.
    smoothed() {
      return state.smooth > 0 && !this.content.measured;
    }

    positions() {
      const all = this.visible().flatMap((line) => line[state.over]);
      return [...new Set(all)].sort((a, b) => a - b);
    }

    draw() {
      const width = this.plot.clientWidth;
      if (!width) return;
      const lines = this.visible().map((line) => ({
        ...line, x: line[state.over],
        shown: this.smoothed() ? smooth(line.y, state.smooth) : line.y,
      }));
      const xs = lines.flatMap((line) => line.x);
      const ys = [...lines.flatMap((line) => line.shown),
                  ...this.content.floors].filter((y) => y !== null);
      this.plot.replaceChildren(this.tip, this.note);
      this.lines = lines;
      const picture = svg('svg', {
        width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`,
        'aria-hidden': 'true'});
      this.plot.prepend(picture);
      this.picture = picture;
      if (!xs.length || !ys.length) {
        this.note.textContent = lines.length ? 'no finite value' : 'hidden';
        this.scale = null;
        return;
      }
      let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
      if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
      let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
      const log = state.log && y0 > 0;
      this.note.textContent = state.log && !log ?
          'linear: not all values are above 0' : '';
      if (y0 === y1) {
        const margin = Math.abs(y0) * 0.1 || 1;
        [y0, y1] = log ? [y0 / 1.1, y1 * 1.1] : [y0 - margin, y1 + margin];
      }
      const of = log ? Math.log : (y) => y;
      const margin = 0.04 * (of(y1) - of(y0));
      const [low, high] = [of(y0) - margin, of(y1) + margin];
      const X = (x) => LEFT + (x - x0) / (x1 - x0) * (width - LEFT - RIGHT);
      const Y = (y) => TOP + (high - of(y)) / (high - low) *
          (HEIGHT - TOP - BOTTOM);
      this.scale = {x0, x1, X, Y, width};

      const back = log ? Math.exp : (y) => y;
      const yTicks = log ? logTicks(back(low), back(high)) :
          linearTicks(low, high, 5);
      for (const y of yTicks) {
        svg('line', {x1: LEFT, x2: width - RIGHT, y1: Y(y), y2: Y(y),
                     class: 'grid'}, picture);
        svg('text', {x: LEFT - 6, y: Y(y) + 4, 'text-anchor': 'end'},
            picture).textContent = format(y);
      }
      for (const x of linearTicks(x0, x1, Math.max(3, width / 75))) {
        svg('line', {x1: X(x), x2: X(x), y1: TOP, y2: HEIGHT - BOTTOM,
                     class: 'grid'}, picture);
        svg('text', {x: X(x), y: HEIGHT - 8, 'text-anchor': 'middle'},
            picture).textContent = format(x);
      }
      for (const y of this.content.floors) {
        svg('line', {x1: LEFT, x2: width - RIGHT, y1: Y(y), y2: Y(y),
                     class: 'floor'}, picture);
        svg('text', {x: width - RIGHT - 4, y: Y(y) - 4, 'text-anchor': 'end',
                     class: 'floor-text'}, picture).textContent =
            `floor ${format(y)}`;
      }
      // A faint line may leave the range of the smoothed ones.
      const clip = `clip${panels.indexOf(this)}`;
      const area = svg('clipPath', {id: clip}, picture);
      svg('rect', {x: LEFT - 2, y: TOP - 2, width: width - LEFT - RIGHT + 4,
                   height: HEIGHT - TOP - BOTTOM + 4}, area);
      const group = svg('g', {'clip-path': `url(#${clip})`}, picture);
      for (const line of lines) {
        if (this.smoothed()) this.path(group, line, line.y, X, Y, log, ' faint');
        this.path(group, line, line.shown, X, Y, log, '');
      }
      this.cursor = svg('line', {y1: TOP, y2: HEIGHT - BOTTOM,
                                 class: 'cursor', visibility: 'hidden'},
                        picture);
      if (this.at !== null) this.point(this.at);
    }

    path(group, line, values, X, Y, log, extra) {
      const style = `c${line.colour % COLOURS}${extra}`;
      const dash = DASHES[Math.floor(line.colour / COLOURS) % DASHES.length];
      let path = '';
      let pen = false;
      let count = 0;
      values.forEach((y, i) => {
        if (y === null || (log && y <= 0)) {
          pen = false;
          return;
        }
        path += `${pen ? 'L' : 'M'}${X(line.x[i]).toFixed(1)},` +
            Y(y).toFixed(1);
        pen = true;
        count++;
      });
      svg('path', {d: path, class: `curve ${style}`,
                   'stroke-dasharray': dash}, group);
      if (count > 24 || extra) return;
      values.forEach((y, i) => {
        if (y === null || (log && y <= 0)) return;
        svg('circle', {cx: X(line.x[i]), cy: Y(y), r: 2.5,
                       class: `dot ${style}`}, group);
      });
    }

    toX(pixel) {
      if (!this.scale) return null;
      const {x0, x1, width} = this.scale;
      return x0 + (pixel - LEFT) / (width - LEFT - RIGHT) * (x1 - x0);
    }

    // Shows the values at the logged position that is nearest to x.
    point(x) {
      this.at = x;
      const all = x === null || !this.scale ? [] : this.positions();
      this.tip.hidden = !all.length;
      if (this.cursor) {
        this.cursor.setAttribute('visibility',
                                 all.length ? 'visible' : 'hidden');
      }
      if (!all.length) return;
      const at = all[nearest(all, x)];
      this.at = at;
      const pixel = this.scale.X(at);
      this.cursor.setAttribute('x1', pixel);
      this.cursor.setAttribute('x2', pixel);
      const rows = this.lines.map((line) => {
        const i = nearest(line.x, at);
        const value = format(line.shown[i]) + (
          this.smoothed() ? ` (logged ${format(line.y[i])})` : '');
        // A run that was logged at other steps says where.
        const where = line.x[i] === at ? '' : ` at ${format(line.x[i])}`;
        return html('div', {},
                    swatch(line), `${line.label} `, html('b', {}, value), where);
      });
      this.tip.replaceChildren(
          html('div', {class: 'quiet'},
               `${format(at)} ${state.over === 'kimg' ? 'kimg' : 'steps'}`),
          ...rows);
      // Beside the position, or where that would hide the curves, below.
      const {width} = this.scale;
      const size = this.tip.offsetWidth;
      const below = size > width / 2;
      const left = pixel + 12 + size <= width ? pixel + 12 : pixel - 12 - size;
      this.tip.style.left = `${below ? 0 : Math.max(0, left)}px`;
      this.tip.style.top = `${below ? HEIGHT : TOP}px`;
    }
  }

  function drawAll() {
    for (const panel of panels) panel.draw();
  }

  function legend(place, lines) {
    for (const line of lines) {
      const button = html(
          'button', {type: 'button', 'aria-pressed': 'true'},
          swatch(line), line.label);
      button.addEventListener('click', () => {
        const hide = !state.hidden.has(line.key);
        if (hide) state.hidden.add(line.key);
        else state.hidden.delete(line.key);
        button.setAttribute('aria-pressed', String(!hide));
        drawAll();
      });
      place.append(button);
    }
  }

  function curves() {
    const content = read('curves-data');
    if (!content) return;
    const section = document.getElementById('curves');
    const controls = section.querySelector('.controls');
    controls.hidden = false;
    const figures = section.querySelectorAll('figure.panel');
    const runs = new Map();
    content.panels.forEach((panel, i) => {
      panels.push(new Panel(figures[i], panel));
      if (content.several) {
        for (const line of panel.lines) runs.set(line.key, line);
      } else if (panel.lines.length > 1 ||
                 panel.lines[0].label !== panel.title) {
        legend(figures[i].querySelector('.legend'), panel.lines);
      }
    });
    legend(section.querySelector('#legend'),
           [...runs.values()].sort((a, b) => a.colour - b.colour));
    const control = (id, change) => {
      const element = document.getElementById(id);
      element.addEventListener('input', () => {
        change(element);
        drawAll();
      });
      change(element);  // A reload keeps what was set.
    };
    control('over', (e) => {
      // A position in images is none in steps.
      for (const panel of panels) panel.point(null);
      state.over = e.value;
    });
    control('log', (e) => {
      state.log = e.checked;
    });
    control('smooth', (e) => {
      state.smooth = Number(e.value);
      document.getElementById('smooth-text').textContent = e.value;
    });
    drawAll();
  }

  function samples() {
    const moments = read('moments-data');
    if (!moments) return;
    const section = document.getElementById('samples');
    const slider = document.getElementById('moment');
    const kind = document.getElementById('kind');
    const full = document.getElementById('full');
    section.querySelector('.controls').hidden = false;
    const show = () => {
      const moment = moments[Number(slider.value)];
      document.getElementById('moment-text').textContent =
          `${format(moment)} kimg`;
      slider.setAttribute('aria-valuetext', `${format(moment)} kimg`);
      for (const figure of section.querySelectorAll('figure')) {
        const all = [...figure.querySelectorAll('img')];
        const asked = all.filter((i) => !kind || i.dataset.kind === kind.value);
        const candidates = asked.length ? asked : all;
        let chosen = null;
        for (const image of candidates) {
          if (Number(image.dataset.kimg) <= moment) chosen = image;
        }
        for (const image of all) image.hidden = image !== chosen;
        figure.querySelector('.caption').textContent = chosen ?
            `${chosen.dataset.kind}, step ${chosen.dataset.step}, ` +
            `${format(Number(chosen.dataset.kimg))} kimg` : 'none so early';
      }
      section.classList.toggle('full', full.checked);
    };
    for (const control of [slider, kind, full]) {
      if (control) control.addEventListener('input', show);
    }
    show();
  }

  curves();
  samples();
})();
