"""The page, through the command; looked at in a real browser.

The browser is Debian's Chromium: without it these tests fail and say so.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess

import browser as browser_lib
import numpy as np
import pytest
import runs
import workdirs

from gans_jax import report
from gans_jax.core import cli

WARNING = '2026-01-02 03:05:05,678 WARNING {}\n'
EVIL = ('</script><script>window.owned = 1</script>'
        '<img src=x onerror="window.owned = 2">\'"')
# Relative luminance and contrast of WCAG 2.1; colours as the browser has them.
CONTRAST = '''
(foreground, background) => {
  const probe = document.createElement('i');
  document.body.append(probe);
  const luminance = (name) => {
    probe.style.color = `var(--${name})`;
    const channels = getComputedStyle(probe).color.match(/[0-9.]+/g);
    const [r, g, b] = channels.map((c) => c / 255).map(
        (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [luminance(foreground), luminance(background)];
  probe.remove();
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}'''


def call(*arguments) -> int:
  return cli.call(report.main, [str(a) for a in arguments])


def write(out, *paths) -> str:
  """Runs the command; returns the page."""
  assert call(*paths, f'--out={out}') == cli.DONE
  return pathlib.Path(out).read_text()


@pytest.fixture(scope='module')
def browser():
  with browser_lib.Browser() as found:
    yield found


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """Of two runs; b is 10 times a, and was stopped by an alarm."""
  path = tmp_path_factory.mktemp('page')
  workdirs.make(path / 'a', changed={'seed': 3})
  workdirs.make(path / 'b', scale=10.0, log=WARNING.format(
      'At step 30 the discriminator has won for 20 logged steps'))
  for step in workdirs.STEPS:  # b has no averaged weights
    (path / 'b' / 'samples' / f'ema_{step:08d}.png').unlink(missing_ok=True)
  out = path / 'report.html'
  write(out, path / 'a', path / 'b')
  return out


@pytest.fixture
def opened(page, browser):
  browser.complaints.clear()
  browser.requests.clear()
  browser.open(page)
  yield browser
  assert browser.complaints == []
  assert browser.requests == [f'file://{page}']


def texts(browser, selector: str) -> list[str]:
  return browser.run(f'[...document.querySelectorAll({json.dumps(selector)})]'
                     '.map(e => e.textContent)')


def hover(browser, title: str, kimg: float) -> list[str]:
  """Moves the mouse to a position of a panel; returns what is shown there."""
  x, y = browser.run(f'''(() => {{
    const panel = [...document.querySelectorAll('.panel')].find(
        p => p.querySelector('figcaption').textContent === {title!r});
    panel.scrollIntoView({{block: 'center'}});
    const box = panel.querySelector('svg').getBoundingClientRect();
    // From 0.5 to 2 kimg, between the margins of page.js.
    return [box.left + 54 + ({kimg} - 0.5) / 1.5 * (box.width - 64),
            box.top + 100];
  }})()''')
  browser.move(x, y)
  browser.settle()
  return browser.run('''[...document.querySelectorAll(
      '.tip:not([hidden]) > div')].map(e => e.textContent)''')


def dots(browser, title: str) -> list[list[float]]:
  """Heights of the points of each line of a panel, downwards."""
  found = browser.run(f'''(() => {{
    const panel = [...document.querySelectorAll('.panel')].find(
        p => p.querySelector('figcaption').textContent === {title!r});
    return [...panel.querySelectorAll('.curve:not(.faint)')].map(
        c => c.getAttribute('d').match(/,[-0-9.]+/g).map(
            y => Number(y.slice(1))));
  }})()''')
  return found


# -- In the browser -----------------------------------------------------------


def test_curves_are_drawn(opened):
  assert texts(opened, '.panel figcaption') == [
      'fd16_lite0', 'loss/d', 'loss/g', 'perf/images_per_second']
  assert opened.run('document.querySelectorAll(".curve").length') == 8
  assert texts(opened, '.panel:first-of-type .floor-text') == ['floor 5']
  # Losses are 10^(step / 20): evenly spaced on a logarithmic scale only.
  a, b = dots(opened, 'loss/d')
  assert len(a) == len(b) == 4 and np.std(np.diff(b)) > 5
  # From the least of a to the greatest of b, in 188 pixels, with 4 % of room.
  np.testing.assert_allclose([a[0], b[-1]],
                             8 + 188 * np.array([1.04, 0.04]) / 1.08, atol=.1)
  opened.change('log', True)
  a, b = dots(opened, 'loss/d')
  np.testing.assert_allclose(np.diff(a + b[2:]), np.diff(a)[0], atol=0.2)
  assert np.diff(a)[0] < -5
  # loss/g is negative: it stays as it is, and says so.
  assert 'linear: not all values are above 0' in texts(opened, '.note')
  opened.change('log', False)


def test_values_under_the_mouse(opened):
  assert hover(opened, 'loss/d', 1.02) == ['1 kimg', 'a 10', 'b 100']
  assert hover(opened, 'loss/d', 1.98) == ['2 kimg', 'a 100', 'b 1000']
  opened.change('over', 'step')
  # The middle of 10 to 40 is nearest to 20 or 30.
  assert hover(opened, 'loss/d', 1.1)[0] == '20 steps'
  opened.change('over', 'kimg')
  # The same by keys.
  opened.run('document.querySelectorAll(".plot")[1].focus()')
  for key, kimg in (('ArrowRight', '0.5'), ('ArrowRight', '1'),
                    ('ArrowLeft', '0.5')):
    opened.press(key)
    assert texts(opened, '.tip:not([hidden])')[0].startswith(f'{kimg} kimg')
  opened.press('Escape')
  assert texts(opened, '.tip:not([hidden])') == []


def test_smoothing(opened):
  opened.change('smooth', 0.5)
  assert opened.run('document.querySelectorAll(".faint").length') == 6
  # A metric is not smoothed: 100, 80, 60 at 0, 1, 2.
  assert hover(opened, 'fd16_lite0', 1.3) == ['1 kimg', 'a 80', 'b 800']
  # Weights 1, 2 of 10^.5, 10: without bias.
  want = (10**.5 + 2 * 10) / 3
  assert hover(opened, 'loss/d', 1.02)[1] == (
      f'a {want:.4g} (logged 10)')
  opened.change('smooth', 0)
  assert opened.run('document.querySelectorAll(".faint").length') == 0


def test_the_legend_hides_runs(opened):
  assert texts(opened, '#legend button') == ['a', 'b']
  click = 'document.querySelectorAll("#legend button")[1].click()'
  opened.run(click)
  assert opened.run('document.querySelectorAll(".curve").length') == 4
  assert hover(opened, 'loss/d', 1.02) == ['1 kimg', 'a 10']
  assert opened.run('document.querySelectorAll("#legend button")[1]'
                    '.getAttribute("aria-pressed")') == 'false'
  opened.run(click)
  assert opened.run('document.querySelectorAll(".curve").length') == 8


def grids(browser) -> list[tuple]:
  """(kind, step, grey of a pixel) of the grids that are seen."""
  return [tuple(x) for x in browser.run('''Promise.all(
      [...document.querySelectorAll('.sheet img:not([hidden])')].map(
          async (image) => {
            await image.decode();
            const canvas = document.createElement('canvas');
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            return [image.dataset.kind, Number(image.dataset.step),
                    context.getImageData(4, 4, 1, 1).data[0]];
          }))''')]


def test_the_slider_moves_the_grids(opened):
  assert grids(opened) == [('ema', 40, 50), ('live', 40, 40)]
  opened.change('moment', 0)
  assert grids(opened) == [('ema', 0, 10), ('live', 0, 0)]
  opened.change('moment', 1)
  opened.change('kind', 'live')
  assert grids(opened) == [('live', 20, 20), ('live', 20, 20)]
  assert texts(opened, '#moment-text') == ['1 kimg']
  assert texts(opened, '.caption') == ['live, step 20, 1 kimg'] * 2


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
def test_a_phone_in_both_schemes(opened, page, dark):
  opened.open(page, width=360, dark=dark)
  opened.requests.pop()
  # Nothing but tables is wider than the window, and they scroll.
  assert opened.run('document.documentElement.scrollWidth') == 360
  assert opened.run('''[...document.querySelectorAll('.plot svg')].every(
      s => s.clientWidth > 250 && s.clientWidth < 360)''')
  for name, least in {'ink': 7, 'quiet': 4.5, 'link': 4.5, 'alarm': 4.5,
                      'warning': 4.5, **{f'c{i}': 4.5 for i in range(8)}
                      }.items():
    for background in ('paper', 'panel'):
      ratio = opened.run(f'({CONTRAST})("{name}", "{background}")')
      assert ratio >= least, (name, background, ratio)
  ground = opened.run('getComputedStyle(document.body).backgroundColor')
  assert (max(map(int, ground[4:-1].split(','))) < 50) == dark


def test_nothing_of_a_run_is_run(tmp_path, browser):
  """Scripts in the config, log, names of metrics and files stay text."""
  path = tmp_path / '<img src=x onerror=owned>'
  workdirs.make(
      path, changed={'data.source': EVIL}, log=WARNING.format(EVIL),
      results=[workdirs.result(40, 1.0, **{EVIL: EVIL}) | {'metric': EVIL}],
      more={EVIL: 1.0, 'loss/' + EVIL: None})
  record = json.loads((path / 'config.json').read_text())
  record.update(host=EVIL, git=EVIL, packages={EVIL: EVIL})
  record['command'].append(EVIL)
  (path / 'config.json').write_text(json.dumps(record))
  (path / 'config_history.jsonl').write_text(workdirs.lines(
      [{'started': EVIL, 'changed': {EVIL: [EVIL, EVIL]}}]))
  sample = path / 'samples' / 'live_00000040.png'
  shutil.copy(sample, path / 'samples' / '"onerror=owned><i>_00000040.png')
  twin = tmp_path / 'twin'
  workdirs.make(twin)
  for paths in ([path], [path, twin]):
    out = tmp_path / 'page.html'
    write(out, *paths)
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(out)
    assert browser.run('window.owned') is None
    assert browser.run('document.scripts.length') == 3
    assert browser.run('document.querySelectorAll("[onerror]").length') == 0
    assert EVIL in browser.run('document.body.textContent')
    if len(paths) == 1:
      opened = hover(browser, 'loss', 2.0)
      assert any(EVIL in text for text in texts(browser, '.legend')), opened
    # A script that came in all the same would not be run, nor fetch.
    browser.run('''(() => {
      const s = document.createElement('script');
      s.textContent = 'window.owned = 3';
      document.body.append(s);
      new Image().src = 'http://127.0.0.1:9/x.png';
    })()''')
    browser.settle()
    assert browser.run('window.owned') is None
    assert browser.requests == [f'file://{out}']
    assert len(browser.complaints) == 2  # the policy's refusals of these two


def test_grids_in_a_folder_beside(page, tmp_path, browser):
  out = tmp_path / 'beside.html'
  assert call(page.parent / 'a', f'--out={out}', '--embed_mb=0') == cli.DONE
  assert 'data:image' not in out.read_text()
  assert len(os.listdir(tmp_path / 'beside_files')) == 6
  browser.complaints.clear()
  browser.open(out)
  # Pixels of a file: are not for scripts to read; that it is there, is.
  assert browser.run('''Promise.all([...document.querySelectorAll(
      '.sheet img')].map(i => i.decode().then(() => i.naturalWidth)))'''
                     ) == [8] * 6
  assert browser.complaints == []
  # In the page again: the folder goes.
  write(out, page.parent / 'a')
  assert not (tmp_path / 'beside_files').exists()


# -- What it says -------------------------------------------------------------


def test_what_the_page_says(page):
  """Each section, as text: without script too."""
  text = page.read_text()
  for words in (
      # Ablation: the paper's beside ours.
      '8.42 +- .10', '7.86 +- .07', 'experiments/wgan_gp/cifar10.py',
      'no run here', 'batch_size', '600 ', '60 ',
      # Protocol, floor, environment, alarms.
      'fake.batch_norm', 'running statistics', 'floor: real against real',
      '8 (tpu), mesh data 8 x model 1', 'f00d' * 10, 'jax 0.10.2',
      'At step 30 the discriminator has won', 'class="mark alarm"',
      # What differs between the two.
      'keys that differ', '<th scope="row">seed</th><td>3</td><td>0</td>',
      'complete'):
    assert words in text, words
  assert '<td>64</td>' not in text  # an unchanged key is no difference


def test_seeds_have_a_mean(tmp_path):
  for i, scale in enumerate((1.0, 1.5, 2.0)):
    workdirs.make(tmp_path / f's{i}', scale=scale, changed={'seed': i})
  # The newest are 60, 90 and 120.
  assert 'mean ± std of 3 seeds</td><td>90 ± 30</td>' in write(
      tmp_path / 'r.html', tmp_path)


def test_a_running_run(tmp_path):
  path = tmp_path / 'a'
  workdirs.make(path, changed={'total_steps': 80})
  lock = {'pid': os.getpid(), 'host': os.uname().nodename}
  (path / '.lock').write_text(json.dumps(lock))
  with open(path / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 50, "kimg": 2.5, "lo')
  out = tmp_path / 'r.html'
  text = write(out, path)
  assert f'training (process {os.getpid()} on' in text
  assert '40 (50%)' in text and 'class="notes"' not in text
  gone = subprocess.Popen(['true'])
  gone.wait()
  (path / '.lock').write_text(json.dumps(lock | {'pid': gone.pid}))
  assert 'killed; the same command goes on' in write(out, path)
  (path / '.lock').write_text('')
  assert 'stopped; the same command goes on' in write(out, path)


@pytest.mark.parametrize('name,content,words', [
    ('config.json', b'{"program": "gans_j', 'config.json cannot be read'),
    ('metrics.jsonl', b'\xff\x00\n{}\n[]\n{"step": 1, "kimg": "x"}\n',
     '2 lines of metrics.jsonl are damaged'),
    ('metrics.jsonl', None, 'There is nothing in metrics.jsonl yet'),
    ('evaluations.jsonl', b'{"metric": 3, "step": 1}\n{"a": 1}\n',
     '2 lines of metrics.jsonl and evaluations.jsonl are not records'),
    ('evaluations.jsonl', b'[' * 100_000 + b'\n', 'are damaged'),
    ('log.txt', None, 'There is nothing in log.txt yet'),
    ('config_history.jsonl', b'{"changed": {"seed": 1}}\n',
     '1 lines of config_history.jsonl are damaged'),
    ('samples/ema_00000020.png', b'\x89PNG', 'is not a whole PNG'),
    ('checkpoints/40/meta/metadata', b'{', 'checkpoints/40/meta cannot'),
], ids=str)
def test_damage_is_told(tmp_path, capsys, name, content, words):
  path = tmp_path / 'a'
  workdirs.make(path)
  os.makedirs((path / name).parent, exist_ok=True)
  if content is None:
    (path / name).unlink()
  else:
    (path / name).write_bytes(content)
  text = write(tmp_path / 'r.html', path)
  assert words in text and words in capsys.readouterr().out
  assert 'experiments/wgan_gp/cifar10.py' in text or name == 'config.json'


def test_any_damage_gives_a_page(tmp_path):
  """Bytes changed, cut out and doubled, anywhere in the files."""
  rng = random.Random(0)
  out = tmp_path / 'r.html'
  names = ('config.json', 'config_history.jsonl', 'metrics.jsonl',
           'evaluations.jsonl', 'log.txt', '.lock',
           'samples/live_00000020.png', 'checkpoints/40/meta/metadata')
  path = tmp_path / 'a'
  workdirs.make(path)
  (path / 'config_history.jsonl').write_text(
      '{"started": "now", "changed": {"seed": [0, 1]}}\n')
  (path / '.lock').write_text('{"pid": 1, "host": "x"}')
  os.makedirs(path / 'checkpoints/40/meta')
  (path / 'checkpoints/40/meta/metadata').write_text(
      '{"clock": {"total_seconds": 3.5}, "versions": {"jax": "0.10.1"}}')
  whole = {name: (path / name).read_bytes() for name in names}
  values = (b'null', b'-1', b'1e999', b'"x"', b'[]', b'{}', b'true', b'NaN',
            b'9' * 400, b'"\\ud800"', b'\x00', b'\n', b'"', b'}')
  pages = 0
  for _ in range(40):
    for name in rng.sample(names, 2):
      content = bytearray(whole[name])
      for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.choice((1, 1, 2, 5, 40)))
        content[at:end] = rng.choice(
            (b'', rng.randbytes(end - at), rng.choice(values),
             content[at:end] * 2))
      (path / name).write_bytes(content)
    code = call(path, f'--out={out}')
    # A config may have become another program's.
    assert code == cli.DONE or b'"program": "gans_jax"' not in (
        path / 'config.json').read_bytes()
    pages += code == cli.DONE
    for name in names:
      (path / name).write_bytes(whole[name])
  assert pages > 30


def test_refusals(tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  workdirs.make(tmp_path / 'other')
  (tmp_path / 'other' / 'config.json').write_text('{"program": "else"}')
  workdirs.make(tmp_path / 'a')
  out = tmp_path / 'r.html'
  for arguments, words in (
      ([tmp_path / 'empty'], ['empty has no config.json', 'directory of']),
      ([tmp_path / 'absent'], ['absent is not a directory']),
      ([tmp_path / 'other'], ['another program']),
      ([tmp_path / 'a', '--experiment=absent.py'], ['absent.py']),
      ([tmp_path / 'a', '--embed_mb=-1'], ['--embed_mb']),
      ([tmp_path / 'a', f'--out={tmp_path / "empty"}'], ['Cannot write'])):
    code = call(f'--out={out}', *arguments)
    runs.refused(capsys, code, *words)
  assert not out.exists() and os.listdir(tmp_path / 'empty') == []


def test_directories_of_workdirs(tmp_path):
  """A sweep's; names are as long as it takes to tell them apart."""
  for name in ('x/a', 'y/a', 'y/b'):
    workdirs.make(tmp_path / name)
  (tmp_path / 'y' / 'notes').mkdir()
  text = write(tmp_path / 'r.html', tmp_path / 'x', tmp_path / 'y',
               tmp_path / 'y' / 'b')
  assert '<h1>3 runs</h1>' in text
  for name in ('x/a', 'y/a', 'b'):
    assert f'</i>{name}</span>' in text
