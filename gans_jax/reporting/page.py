"""The page: sections of HTML, with the script and the style in it."""

import base64
import datetime
import hashlib
import importlib.resources
import itertools
import json
import math
import statistics
from typing import Any

from gans_jax.core import clock
from gans_jax.reporting import ablation as ablation_lib
from gans_jax.reporting import charts
from gans_jax.reporting import log_file
from gans_jax.reporting import measured as measured_lib
from gans_jax.reporting import run as run_lib
from gans_jax.reporting import sheets as sheets_lib
from gans_jax.reporting.html import Markup
from gans_jax.reporting.html import data
from gans_jax.reporting.html import folded
from gans_jax.reporting.html import join
from gans_jax.reporting.html import table
from gans_jax.reporting.html import tag

# Colours of the style; further runs have dashed lines.
COLOURS = 8


def render(runs: list[run_lib.Run], addresses: dict[sheets_lib.Sheet, str],
           experiment: str = '') -> str:
  """Returns the page.

  Args:
    runs: one or more.
    addresses: of the sample grids, of `sheets.place`.
    experiment: config file of the runs; '' as their commands say.

  Raises:
    UserError: `experiment` is not a config file.
  """
  measured = measured_lib.collect(runs)
  experiments = ablation_lib.collect(runs, experiment)
  sections = [
      ('Runs', _runs(runs, measured)),
      ('Alarms', _alarms(runs)),
      ('Samples', _samples(runs, addresses)),
      ('Curves', _curves(runs, measured)),
      ('Metrics', _metrics(runs, measured)),
      ('Ablation', [_experiment(e, runs, measured) for e in experiments]),
      ('Configs', _configs(runs)),
      ('Environment', _environment(runs)),
  ]
  sections = [(title, body) for title, body in sections if body]
  now = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')
  title = runs[0].name if len(runs) == 1 else f'{len(runs)} runs'
  style, script = (
      importlib.resources.files(__package__).joinpath(name).read_text('utf-8')
      for name in ('page.css', 'page.js'))
  body = join(
      tag('header', tag('h1', title),
          tag('p', f'gans_jax report, written {now}', class_='quiet'),
          tag('nav', [tag('a', name, href=f'#{name.lower()}')
                      for name, _ in sections])),
      tag('main', [tag('section', tag('h2', name), content, id=name.lower())
                   for name, content in sections]))
  # Nothing is fetched, and no script runs but this one.
  policy = ("default-src 'none'; img-src data: 'self' file:; "
            f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
            "base-uri 'none'; form-action 'none'")
  head = tag(
      'head', tag('meta', charset='utf-8'),
      tag('meta', http_equiv='Content-Security-Policy', content=policy),
      tag('meta', name='viewport',
          content='width=device-width, initial-scale=1'),
      tag('meta', name='color-scheme', content='light dark'),
      tag('title', f'{title} · gans_jax'), tag('style', Markup(style)))
  whole = tag('html', head, tag('body', body, tag('script', Markup(script))),
              lang='en')
  return f'<!doctype html>\n{whole}\n'


def _digest(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f'sha256-{base64.b64encode(digest).decode()}'


def _number(value: float) -> str:
  return f'{value:.4g}' if math.isfinite(value) else ''


def _kimg(value: float) -> str:
  return f'{value:,.4g} kimg' if value < 1000 else f'{value:,.0f} kimg'


def _json(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def _name(runs: list[run_lib.Run], index: int) -> Markup:
  """The name of a run with its colour, which a page of one run needs not."""
  name = runs[index].name
  if len(runs) == 1:
    return tag('span', name)
  swatch = f'swatch c{index % COLOURS} d{index // COLOURS % 4}'
  return tag('span', tag('i', class_=swatch), name, class_='run')


def _facts(pairs) -> Markup:
  """A table of names and values, those without a value left out."""
  return table(('', ''), [(name, value) for name, value in pairs
                          if value not in ('', None)], 'facts')


# -- Runs ---------------------------------------------------------------------


def _runs(runs, measured) -> Markup:
  rows = []
  for i, run in enumerate(runs):
    share = '' if run.share is None else f' ({run.share:.0%})'
    newest = [f'{m.name}: {_number(m.values[i][-1].value)}'
              for m in measured if m.values.get(i)]
    rows.append((
        _name(runs, i), run.config.get('system', '?'),
        _json(run.config.get('data.source', '?')), run.status,
        f'{run.step:,}{share}', _kimg(run.kimg(run.step)),
        join(*itertools.chain.from_iterable(
            (x, tag('br')) for x in newest[:3])), _rate(run)))
  notes = [tag('li', tag('b', run.name), ': ', note)
           for run in runs for note in run.notes]
  return join(
      table(('run', 'system', 'data', 'state', 'steps', 'images seen',
             'newest metrics', 'images/s'), rows),
      tag('ul', notes, class_='notes') if notes else None)


def _rate(run: run_lib.Run) -> str:
  """Median of the logged rates."""
  rates = [p['perf/images_per_second'] for p in run.points
           if math.isfinite(p.get('perf/images_per_second', math.nan))]
  return f'{statistics.median(rates):,.4g}' if rates else ''


# -- Alarms -------------------------------------------------------------------


def _alarms(runs) -> Markup:
  items = []
  for i, run in enumerate(runs):
    for said, count, last in log_file.grouped(run.log):
      kind = 'alarm' if said.is_alarm else said.level.lower()
      when = said.time if count == 1 else (
          f'{said.time} to {last}, {count} times')
      items.append(tag(
          'li', tag('span', kind, class_=f'mark {kind}'), ' ',
          [_name(runs, i), ' '] if len(runs) > 1 else None,
          tag('span', when, class_='quiet'),
          tag('div', said.text, class_='said')))
  if not items:
    return tag('p', 'The logs have no alarms, warnings or errors.')
  return tag('ul', items, class_='log')


# -- Samples ------------------------------------------------------------------


def _samples(runs, addresses) -> Markup | None:
  shown = [(i, run, [s for s in run.sheets if s in addresses])
           for i, run in enumerate(runs)]
  shown = [(i, run, sheets) for i, run, sheets in shown if sheets]
  if not shown:
    return None
  moments = sorted({run.kimg(s.step) for _, run, sheets in shown
                    for s in sheets})
  kinds = sorted({s.kind for _, _, sheets in shown for s in sheets})
  figures = []
  for i, run, sheets in shown:
    # Without the script the newest grid is seen.
    images = [tag(
        'img', src=addresses[s], width=s.width, height=s.height,
        alt=f'{run.name}: {s.kind} samples of step {s.step}',
        hidden=s is not sheets[-1], data_kind=s.kind, data_step=s.step,
        data_kimg=run.kimg(s.step)) for s in sheets]
    figures.append(tag(
        'figure', tag('figcaption', _name(runs, i), ' ',
                      tag('span', class_='caption quiet')),
        tag('div', images, class_='sheet'), class_='samples'))
  return join(
      tag('div',
          tag('label', 'images seen ', tag(
              'input', type='range', id='moment', min=0,
              max=len(moments) - 1, value=len(moments) - 1, step=1),
              tag('output', _kimg(moments[-1]), id='moment-text',
                  for_='moment')),
          tag('label', 'weights ', tag('select', [
              tag('option', kind) for kind in kinds], id='kind'))
          if len(kinds) > 1 else None,
          tag('label', tag('input', type='checkbox', id='full'),
              ' full size'), class_='controls', hidden=True),
      tag('div', figures, class_='sheets'),
      data('moments-data', moments))


# -- Curves -------------------------------------------------------------------


def _curves(runs, measured) -> Markup | None:
  panels = charts.panels(runs, measured)
  if not panels:
    return None
  figures = [tag(
      'figure', tag('figcaption', panel['title']),
      tag('div', class_='plot', tabindex=0, role='img', aria_label=(
          f'{panel["title"]}, {len(panel["lines"])} curves; arrow keys read '
          'values')), tag('div', class_='legend'), class_='panel')
      for panel in panels]
  newest = charts.last_values(runs)
  return join(
      tag('div',
          tag('label', 'over ', tag(
              'select', tag('option', 'thousand images', value='kimg'),
              tag('option', 'steps', value='step'), id='over')),
          tag('label', 'smoothing ', tag(
              'input', type='range', id='smooth', min=0, max=0.99, step=0.01,
              value=0), tag('output', '0', id='smooth-text', for_='smooth')),
          tag('label', tag('input', type='checkbox', id='log'),
              ' log scale'),
          tag('div', id='legend', class_='legend'), class_='controls',
          hidden=True),
      tag('noscript', tag('p', 'Curves are drawn by JavaScript, which is off '
                          'here. The numbers are below.')),
      tag('div', figures, class_='panels'),
      tag('p', 'Dashed and level: the floor, real images against real '
          'images. Faint: as logged, where the curve is smoothed.',
          class_='quiet'),
      folded('Newest values', table(
          ('', *(_name(runs, i) for i in range(len(runs)))),
          [(name, *values) for name, values in newest])),
      data('curves-data', {'panels': panels, 'several': len(runs) > 1}))


# -- Metrics ------------------------------------------------------------------


def _metrics(runs, measured) -> Markup | None:
  if not measured:
    return None
  blocks = []
  for one in measured:
    floors = any(math.isfinite(v.floor) or v.floor_note
                 for values in one.values.values() for v in values)
    head = ['run', 'first', 'best', 'newest']
    rows = []
    for i, values in one.values.items():
      best = one.best(i)
      rows.append([_name(runs, i), _value(values[0]),
                   _value(best) if best else 'not known', _value(values[-1])])
      if floors:
        rows[-1].append(_floor(values[-1]))
    if floors:
      head.append('floor: real against real')
    every = [(_name(runs, i), f'{v.step:,}', _kimg(v.kimg), _result(v),
              _floor(v), _number(v.seconds))
             for i, values in one.values.items() for v in values]
    direction = {'min': 'lower is better', 'max': 'higher is better'}.get(
        one.better, '')
    blocks += [
        tag('h3', one.label, ' ', tag('span', direction, class_='quiet')),
        table(head, rows),
        folded('Protocol: all recorded options', _facts(
            (key, _json(value)) for key, value in one.protocol.items())),
        folded('Every result', table(
            ('run', 'step', 'images seen', 'value', 'floor', 'seconds'),
            every))]
  return join(
      tag('p', 'One table is one protocol: numbers of different tables do '
          'not compare.', class_='quiet'), blocks)


def _result(value: measured_lib.Value) -> str:
  if not math.isfinite(value.value):
    return 'not finite'
  std = f' ± {value.std:.2g}' if math.isfinite(value.std) else ''
  return f'{_number(value.value)}{std}'


def _value(value: measured_lib.Value) -> Markup:
  return join(_result(value), ' ',
              tag('span', f'at {_kimg(value.kimg)}', class_='quiet'))


def _floor(value: measured_lib.Value) -> Markup | str:
  if not math.isfinite(value.floor):
    return value.floor_note or ''
  note = f' ({value.floor_note})' if value.floor_note else ''
  return f'{_number(value.floor)}{note}'


# -- Ablation -----------------------------------------------------------------


def _experiment(experiment: ablation_lib.Experiment, runs, measured
                ) -> Markup:
  of_it = {i for row in experiment.rows for i, _ in row.runs}
  columns = [m for m in measured if of_it & m.values.keys()]
  figures = experiment.figures
  head = tag('thead', tag(
      'tr', tag('th', '', colspan=2),
      tag('th', 'published', colspan=len(figures), class_='published')
      if figures else None,
      tag('th', 'ours', colspan=len(columns) + 1)), tag(
          'tr', [tag('th', x) for x in ('row', 'run')],
          [tag('th', figure, class_='published') for figure in figures],
          [tag('th', m.label, ' ', tag('span', _floors(m, of_it),
                                       class_='quiet')) for m in columns],
          tag('th', 'differs: row → run')))
  body = []
  for row in experiment.rows:
    lines = [_line(runs, columns, i, differing) for i, differing in row.runs]
    lines += _mean(runs, columns, row)
    lines = lines or [[tag('td', 'no run here', class_='quiet run'),
                       [tag('td') for _ in range(len(columns) + 1)]]]
    for n, (name, *cells) in enumerate(lines):
      own = [tag('th', row.name or 'as it is', scope='row',
                 rowspan=len(lines))] if n == 0 else None
      published = [tag('td', row.published.get(figure, ''),
                       class_='published', rowspan=len(lines))
                   for figure in figures] if n == 0 else None
      body.append(tag('tr', own, name, published, cells))
  return join(
      tag('h3', experiment.file),
      tag('div', tag('table', head, tag('tbody', body), class_='ablation'),
          class_='scroll', tabindex=0),
      tag('p', 'Published figures and ours compare only where protocol, data '
          'and length are the same: the file says how the published ones '
          'were measured, the last column how far the run is from the row. '
          'Ours: newest, in brackets the best.' if figures else
          'The file has no published figures that a program can read.',
          class_='quiet'),
      tag('ul', [tag('li', note) for note in experiment.notes],
          class_='notes') if experiment.notes else None,
      folded('What the file says', tag('pre', experiment.description)))


def _floors(measured, of_it) -> str:
  floors = {_number(v.floor) for i in of_it for v in measured.values.get(i, ())
            if math.isfinite(v.floor)}
  return f'floor {", ".join(sorted(floors))}' if floors else ''


def _line(runs, columns, index, differing) -> list[Markup]:
  cells = []
  for m in columns:
    values = m.values.get(index)
    if not values:
      cells.append(tag('td'))
      continue
    best = m.best(index)
    more = f' ({_number(best.value)} at {_kimg(best.kimg)})' if (
        best and best.value != values[-1].value) else ''
    cells.append(tag('td', _value(values[-1]),
                     tag('span', more, class_='quiet')))
  listed = [tag('li', f'{key}: {_json(a)} → {_json(b)}')
            for key, (a, b) in differing.items()]
  last = tag('ul', listed, class_='tight') if len(listed) < 4 else folded(
      f'{len(listed)} keys', tag('ul', listed, class_='tight'))
  return [tag('td', _name(runs, index)), *cells,
          tag('td', last if listed else 'nothing')]


def _mean(runs, columns, row) -> list[list[Markup]]:
  """A line of mean and standard deviation, where seeds alone differ."""
  indices = [i for i, _ in row.runs]
  others = [{key: value for key, value in runs[i].config.items()
             if key != 'seed'} for i in indices]
  seeds = {_json(runs[i].config.get('seed')) for i in indices}
  if len(indices) < 2 or len(seeds) < len(indices) or (
      any(other != others[0] for other in others)):
    return []
  cells = []
  for m in columns:
    newest = [m.values[i][-1] for i in indices if m.values.get(i)]
    if len(newest) == len(indices) and len({v.step for v in newest}) == 1:
      values = [v.value for v in newest]
      cells.append(tag('td', f'{_number(statistics.mean(values))} ± '
                       f'{statistics.stdev(values):.2g}'))
    else:
      cells.append(tag('td'))
  return [[tag('td', f'mean ± std of {len(indices)} seeds'), *cells,
           tag('td')]]


# -- Configs ------------------------------------------------------------------


def _configs(runs) -> Markup:
  blocks = []
  if len(runs) > 1:
    keys = sorted({key for run in runs for key in run.config})
    rows = []
    for key in keys:
      cells = [_json(run.config[key]) if key in run.config else '(absent)'
               for run in runs if run.config]
      if len(set(cells)) > 1:
        rows.append((key, *cells))
    names = [_name(runs, i) for i, run in enumerate(runs) if run.config]
    blocks.append(
        table(('keys that differ', *names), rows) if rows
        else tag('p', 'The configs are the same.'))
  for run in runs:
    for start in run.starts:
      pairs = [f'{key} {_json(before)} → {_json(now)}'
               for key, (before, now) in start['changed'].items()]
      blocks.append(tag(
          'p', tag('b', run.name), ': changed when it was started again, ',
          start.get('started', '?'), f': {"; ".join(pairs)}'))
  for i, run in enumerate(runs):
    if run.config:
      blocks.append(folded(
          join('Full config of ', _name(runs, i)), _facts(
              (key, _json(value)) for key, value in run.config.items())))
  return join(*blocks)


# -- Environment --------------------------------------------------------------


def _environment(runs) -> Markup:
  blocks = []
  for i, run in enumerate(runs):
    record, meta = run.record, run.meta
    seconds = run_lib.number((meta.get('clock') or {}).get('total_seconds')
                             if isinstance(meta.get('clock'), dict) else None)
    command = record.get('command')
    packages = record.get('packages')
    packages = packages if isinstance(packages, dict) else {}
    newer = meta.get('versions')
    newer = newer if isinstance(newer, dict) else {}
    data_facts = record.get('data')
    data_facts = data_facts if isinstance(data_facts, dict) else {}
    facts = [
        ('workdir', run.path),
        ('started', record.get('started')),
        ('host', record.get('host')),
        ('devices', log_file.devices(run.log)),
        ('command', ' '.join(map(str, command)) if isinstance(command, list)
         else ''),
        ('gans_jax', record.get('version')),
        ('commit', record.get('git')),
        ('Python', record.get('python')),
        ('packages', ', '.join(f'{k} {v}' for k, v in packages.items())),
        ('packages of the newest checkpoint', ', '.join(
            f'{k} {v}' for k, v in newer.items() if packages.get(k) != v)),
        ('data identity', data_facts.get('identity')),
        ('examples', data_facts.get('num_examples')),
        ('checkpoints kept', ', '.join(f'{s:,}' for s in run.checkpoints)),
        ('wall time until the newest checkpoint', clock.in_words(seconds)
         if math.isfinite(seconds) else ''),
        ('images/s, median of the logged', _rate(run)),
    ]
    plan = log_file.plan(run.log)
    blocks.append(join(
        tag('h3', _name(runs, i)) if len(runs) > 1 else None, _facts(facts),
        folded('The plan, as logged', tag('pre', plan)) if plan else None))
  return join(*blocks)
