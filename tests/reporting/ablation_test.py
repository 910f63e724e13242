"""Runs beside the published figures of the rows that they are of."""

import os

import pytest
import runs as runs_lib
import workdirs

from gans_jax.core import errors
from gans_jax.reporting import ablation
from gans_jax.reporting import run as run_lib


def read(path, **options):
  workdirs.make(path, **options)
  return run_lib.read(str(path), path.name)


def test_rows_of_the_paper(tmp_path):
  """Table 3 of WGAN-GP has 7.86 +- .07 and 8.42 +- .10."""
  runs = [
      read(tmp_path / 'a', changed={'loss.n_critic': 3, 'seed': 5}),
      # From another checkout, and a later start changed nothing.
      read(tmp_path / 'b', spec='experiments/wgan_gp/cifar10.py'),
  ]
  runs[1].record['command'][1] = (
      '--config=/home/me/gans/experiments/wgan_gp/cifar10.py')
  found, = ablation.collect(runs)
  assert found.file == 'experiments/wgan_gp/cifar10.py'
  assert found.figures == ['is'] and 'table 3' in found.description
  assert [(row.name, row.published) for row in found.rows] == [
      ('unsupervised', {'is': '7.86 +- .07'}),
      ('supervised', {'is': '8.42 +- .10'}), ('conv', {})]
  # No `row=` is the default one.
  assert [[i for i, _ in row.runs] for row in found.rows] == [[1], [0], []]
  (_, differing), = found.rows[1].runs
  assert differing == {'batch_size': (64, 50), 'loss.n_critic': (5, 3),
                       'total_steps': (100_000, 40)}
  assert not found.notes


@pytest.mark.parametrize('spec,row,published', [
    ('stylegan2/table2.py:row=skip_skip', 'skip_skip',
     {'fid': '3.77', 'ppl2_wend': '127', 'fid_car': '3.86',
      'ppl2_wend_car': '316'}),
    ('progan/celeba128.py:row=b,data=bedroom', 'b',
     {'celeba': '4.28 / 0.2838', 'lsun_bedroom': '7.6 / 0.0615'})])
def test_figures_of_other_kinds(tmp_path, spec, row, published):
  run = read(tmp_path / 'a')
  run.record['command'] = ['main.py', '--config', f'experiments/{spec}']
  found, = ablation.collect([run])
  of_run, = [r for r in found.rows if r.runs]
  assert of_run.name == row and of_run.published == published


def test_flags_are_differences(tmp_path):
  run = read(tmp_path / 'a', spec='experiments/dcgan/emoji64.py:cpu')
  found, = ablation.collect([run])
  assert [row.name for row in found.rows] == ['average', 'live', 'r1']
  (_, differing), = found.rows[0].runs
  assert differing['model.ngf'] == (64, 32)
  assert found.figures == []


def test_a_file_without_rows(tmp_path):
  run = read(tmp_path / 'a', spec='experiments/vae/emoji64.py:beta=2')
  found, = ablation.collect([run])
  assert [row.name for row in found.rows] == ['']
  (_, differing), = found.rows[0].runs
  assert set(differing) <= {'batch_size', 'total_steps'}


def test_no_file_of_a_stranger_is_run(tmp_path):
  """A command may name any file; only this source tree's are run."""
  evil = tmp_path / 'evil.py'
  evil.write_text(f'open({str(tmp_path / "ran")!r}, "w")\n')
  run = read(tmp_path / 'a')
  beside = os.path.relpath(evil, runs_lib.ROOT / 'experiments')
  for path in (str(evil), 'evil.py', '', '..', beside, 'experiments',
               f'experiments/{beside}', f'experiments//{evil}'):
    for command in ([f'--config={path}'], ['--config', path], 'x', None, [3]):
      run.record['command'] = command
      assert ablation.collect([run]) == []
  assert not (tmp_path / 'ran').exists()
  # The user may name one.
  with pytest.raises(errors.UserError, match='no function get_config'):
    ablation.collect([run], str(evil))
  assert (tmp_path / 'ran').exists()


def test_arguments_of_another_day(tmp_path):
  runs = [read(tmp_path / 'a'), read(tmp_path / 'b')]
  for run, arg in zip(runs, ('row=gone', 'depth=3'), strict=True):
    run.record['command'] = [f'--config={workdirs.SPEC.split(":")[0]}:{arg}']
  found, = ablation.collect(runs)
  assert not any(row.runs for row in found.rows)
  assert len(found.notes) == 2 and 'row=gone' in found.notes[0]
