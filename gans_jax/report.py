"""A page on runs: `python -m gans_jax.report DIR... [--out=report.html]`."""

from gans_jax.core import cli
from gans_jax.core import errors

DESCRIPTION = """
Writes one HTML page on a run, or on several beside each other: curves, sample
grids through time, metrics with their protocols, what differs between the
configs, the paper's figures beside ours, alarms, versions.

  python -m gans_jax.report runs/quickstart
  python -m gans_jax.report --out=sweep.html runs/sweep
  python -m gans_jax.report runs/a runs/b runs/c

DIR is a workdir, or a directory of workdirs. The page opens from disk with no
network, and a run may be going on: run the command again for a newer page.
Sample grids are in the page up to --embed_mb, else all in a folder beside it
(report_files for report.html; move both). What a damaged workdir lacks, the
page says.
"""


def main(argv: list[str]) -> int:
  parser = cli.parser('python -m gans_jax.report', DESCRIPTION)
  add = parser.add_argument
  add('workdirs', nargs='+', metavar='DIR')
  add('--out', default='report.html', metavar='FILE.html')
  add('--embed_mb', type=float, default=24., metavar='MB',
      help='most megabytes of sample grids inside the page (default: 24)')
  add('--experiment', default='', metavar='FILE.py',
      help='the config file whose rows the runs are; by default the one in '
           'experiments/ that their commands name')
  args = parser.parse_args(argv)
  if not args.embed_mb >= 0:
    raise errors.UserError(
        f'--embed_mb is {args.embed_mb}, must be 0 or more.')

  import os

  from gans_jax.core import files
  from gans_jax.reporting import page
  from gans_jax.reporting import run as run_lib
  from gans_jax.reporting import sheets

  paths = run_lib.expand(args.workdirs)
  runs = [run_lib.read(path, name) for path, name in zip(
      paths, run_lib.names(paths), strict=True)]
  out = os.path.abspath(os.path.expanduser(args.out))
  addresses = sheets.place([sheet for run in runs for sheet in run.sheets],
                           out, int(args.embed_mb * 1e6))
  text = page.render(runs, addresses, args.experiment)
  # Lone surrogates, which JSON can hold, have no place in a file.
  files.write_atomic(out, text.encode('utf-8', 'replace'))
  sheets.tidy(out, addresses)
  print(f'{out}: {len(runs)} run{"s" if len(runs) > 1 else ""}, '
        f'{len(text) / 1e6:.1f} MB')
  for run in runs:
    for note in run.notes:
      print(f'  {run.name}: {note}')
  return cli.DONE


if __name__ == '__main__':
  cli.run(main)
