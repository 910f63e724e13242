"""The training loop, from top to bottom.

What differs between papers is in gans_jax/systems; what every run needs is in
gans_jax/core; this file is the order in which things happen.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import os

import jax

from gans_jax import evaluator as evaluator_lib
from gans_jax.core import alarms as alarms_lib
from gans_jax.core import checkpoint as checkpoint_lib
from gans_jax.core import cli
from gans_jax.core import clock as clock_lib
from gans_jax.core import compilation
from gans_jax.core import config as config_lib
from gans_jax.core import curves
from gans_jax.core import errors
from gans_jax.core import files
from gans_jax.core import images as images_lib
from gans_jax.core import logging as logging_lib
from gans_jax.core import mesh as mesh_lib
from gans_jax.core import rng
from gans_jax.core import sampler as sampler_lib
from gans_jax.core import signals
from gans_jax.core import stages as stages_lib
from gans_jax.core import state as state_lib
from gans_jax.core import system as system_lib
from gans_jax.core import workdir as workdir_lib
from gans_jax.data import pipeline


def train(config: config_lib.ConfigDict, workdir: str,
          dry_run: bool = False) -> int:
  """Trains the system of `config` in `workdir`; resumes a run it finds.

  Args:
    config: a full config.
    workdir: directory of the run.
    dry_run: check everything and describe the run, and do no more.

  Returns:
    The exit code: `cli.DONE` or `cli.PREEMPTED`.

  Raises:
    UserError: bad config or data (before anything is written), a workdir
      that cannot be used, or (AlarmError) training that went wrong.
  """
  # -- 1. All that can be refused, before anything is written or compiled ---
  config_lib.validate(config)
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
  mesh_lib.check_batch(config.batch_size, config.microbatches, mesh)
  dataset = pipeline.open_dataset(config.data)
  spec = dataset.spec
  system = system_lib.create(config, spec)
  stages = stages_lib.of(config, system)
  total_steps = stages.total_steps(config)
  for stage in stages.until(total_steps):
    mesh_lib.check_batch(stage.batch_size, config.microbatches, mesh,
                         stage.resolution)
  if config.evaluate_every:
    evaluator_lib.check(
        config.evaluate.metrics, system,
        evaluator_lib.compared_with(config, dataset).spec, config.evaluate.num)
  best = evaluator_lib.best_metric(config.evaluate.metrics,
                                   config.evaluate.num)
  alarms = alarms_lib.Alarms(config.alarms)
  part, parts = mesh_lib.batch_part(mesh)
  iterator = pipeline.train_iterator(
      dataset, batch_size=config.batch_size,
      batches_per_step=system.batches_per_step, seed=config.seed,
      process_index=part, process_count=parts,
      workers=config.data.workers, prefetch=config.data.prefetch,
      flip=config.data.flip, keys=system.requires,
      stages=getattr(system, 'stages', None))
  abstract = system_lib.abstract_state(system, config.seed)
  facts = plan(config, system, spec, mesh, abstract, stages, total_steps)
  if dry_run:
    print(state_lib.parameter_table(abstract.params))
    print(facts)
    workdir_lib.check(workdir, config_lib.to_json(config), spec)
    print('dry run: nothing was trained, nothing was written')
    return cli.DONE

  workdir_lib.check(workdir, config_lib.to_json(config), spec)
  dataset.prepare()

  # -- 2. The workdir: ours alone, described by its config.json -------------
  run = workdir_lib.open_run(workdir, config_lib.to_json(config), spec)
  with (
      run, signals.catch() as stop, jax.set_mesh(mesh),
      contextlib.closing(iterator),
      logging_lib.MetricWriter(run.path, jax.process_index() == 0) as writer,
      checkpoint_lib.Checkpointer(
          run.path, keep_latest=config.keep,
          best_metric=best) as checkpoints,
      contextlib.ExitStack() as stack):
    logging.info('%s', facts)

    # -- 3. State: from the workdir, or from the seed -----------------------
    compilation.enable_cache(config.compile.cache)
    shardings = mesh_lib.shardings(abstract, mesh)
    clock = clock_lib.Clock(stages.at(0).images_per_step, total_steps)
    step, saved = 0, None  # steps done; the newest checkpoint
    if checkpoints.latest_step() is not None:
      restored = checkpoints.restore(jax.tree.map(
          lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
          abstract, shardings))
      state, saved = restored.state, restored.step
      step = saved
      iterator.set_state(restored.data_state)
      clock.set_state(restored.meta.get('clock', {}))
      writer.resume(step)
      logging.info('resumed at step %d', step)
    else:
      writer.resume(0)
      # It runs once: optimizing it takes ten times as long as running it.
      state = jax.jit(
          system.init, out_shardings=shardings,
          compiler_options=compilation.options(0))(
              jax.random.key(config.seed))
    if step >= total_steps:
      logging.info('the run is complete: %d steps done', step)

    # -- 4. The compiled functions ------------------------------------------
    replicated = jax.sharding.NamedSharding(mesh, mesh_lib.P())

    def compiled(stage: stages_lib.Stage):
      return jax.jit(
          stages_lib.view(system, stage).train_step, donate_argnums=0,
          out_shardings=(shardings, replicated),
          compiler_options=compilation.options(config.compile.level))

    frozen = jax.device_put(system.frozen(), replicated)
    constants = {**frozen, **jax.device_put(
        system_lib.loss_constants(system), replicated)}
    grids = Grids(config, system, dataset, mesh, frozen)
    evaluator = evaluator_lib.Evaluator(
        config, system, dataset, mesh) if config.evaluate_every else None
    # How many steps the host may be ahead of the device: enough to keep it
    # busy, few enough for true rates and a quick stop. With several in flight,
    # gloo deadlocks between CPU processes.
    ahead = 0 if (jax.process_count() > 1
                  and jax.devices()[0].platform == 'cpu') else 2

    def save(step: int, metrics=None) -> None:
      nonlocal saved
      with clock.pause():
        # The losses of a step are of before its update.
        alarms.check_state(step, state, saved)
        checkpoints.save(
            step, state, data_state=iterator.get_state(),
            meta=dict(config=config_lib.to_json(config), step=step,
                      images=stages.images(step),
                      spec=dataclasses.asdict(spec),
                      versions=workdir_lib.versions(),
                      clock=clock.get_state(), metrics=metrics or {}),
            metrics=metrics)
      saved = step

    def evaluate_now(step: int) -> dict[str, float]:
      with clock.pause():
        results = evaluator({**sampling_variables(state), **frozen}, step,
                            'ema' if state.ema else 'live')
        for result in results:
          evaluator_lib.append(
              os.path.join(run.path, evaluator_lib.RESULTS), result)
        metrics = {result['metric']: result['value'] for result in results}
        writer.scalars(step, {f'metric/{k}': v for k, v in metrics.items()},
                       stages.images(step))
      return metrics

    first, last = {}, {}
    # -- 5. Step 0: what the untrained net gives ----------------------------
    if step == 0:
      with clock.pause():
        grids.write(run.path, state, 0, writer, alarms)
      if evaluator:
        first = evaluate_now(0)
      save(0, first)

    # -- 6. The loop --------------------------------------------------------
    progress = stack.enter_context(contextlib.closing(logging_lib.Progress(
        total_steps, step, clock, enabled=jax.process_index() == 0)))
    flying = collections.deque()  # logs of the steps that are under way
    pending = None  # (step, logs) still on the device

    def look() -> None:
      """Fetches pending logs: alarms first, then the record."""
      nonlocal pending
      if pending is None:
        return
      at, logs = pending
      pending = None
      logs = {name: float(x) for name, x in mesh_lib.to_host(logs).items()}
      alarms.check(at, logs, saved)
      progress.show(at, logs)
      if at % config.log_every == 0 or at == total_steps:
        rate = clock.rate()
        if math.isfinite(rate):  # from the second step on
          logs['perf/images_per_second'] = rate
        writer.scalars(at, logs, stages.images(at))

    stage = train_step = None
    while step < total_steps:
      if stage is not stages.at(step):
        stage = stages.at(step)
        train_step = compiled(stage)
        clock.begin(stage.images_per_step)
      batch = mesh_lib.to_global(next(iterator), mesh)
      state, logs = train_step(state, batch, constants)
      step += 1
      flying.append(logs)
      if len(flying) > ahead:
        jax.block_until_ready(flying.popleft())
      clock.tick()
      # The logs of an earlier step are fetched only now, when the device
      # has the next step to do.
      look()
      final = step == total_steps
      stopping = stop.requested(step)
      sampling = due(step, config.sample_every, final)
      evaluating = bool(evaluator) and due(
          step, config.evaluate_every, final)
      saving = final or stopping or due(step, config.checkpoint_every)
      if (sampling or evaluating or saving or final
          or step % config.log_every == 0):
        pending = step, logs
      progress.update(step)
      if sampling or evaluating or saving:
        # A poisoned state is neither shown, scored nor saved.
        look()
      if sampling:
        with clock.pause():
          grids.write(run.path, state, step, writer, alarms)
      metrics = evaluate_now(step) if evaluating else None
      last = metrics or last
      if saving:
        save(step, metrics)
      if stopping and not final:
        checkpoints.wait()
        progress.close()
        logging.warning(
            'stopped by %s at step %d, which is saved. The same command '
            'goes on from there.', stop.name, step)
        return cli.PREEMPTED
    progress.close()
    checkpoints.wait()

  # -- 7. What came of it ---------------------------------------------------
  if jax.process_index() == 0:
    curves.plot(run.path)
    print(summary(run.path, config, system, total_steps,
                  stages.images(total_steps), clock, first, last))
  return cli.DONE


def due(step: int, every: int, final: bool = False) -> bool:
  """Whether something done every `every` steps (0: never) is due."""
  return every > 0 and (step % every == 0 or final)


def sampling_variables(state: state_lib.TrainState):
  """Returns {net: flax variables}, averaged where there is an average."""
  return {**state_lib.variables(state), **state.ema}


class Grids:
  """Grids of the same latents through time, of live and averaged weights.

  Of a system that reconstructs, images of the data and, in the row below,
  what becomes of them.
  """

  def __init__(self, config, system, dataset, mesh, frozen):
    self.columns = config.sample.columns
    rows = config.sample.rows
    self._frozen = frozen
    self._averaged = config.ema.decay > 0 or config.ema.kimg > 0
    if sampler_lib.reconstructs(system):
      self._sampler = sampler_lib.Reconstructor(
          system, mesh, dataset, max(1, rows // 2), self.columns)
      count = len(self._sampler.originals)
      self._conditions = None
    else:
      count = rows * self.columns
      self._sampler = sampler_lib.Sampler(system, mesh, count)
      self._conditions = sampler_lib.fixed_conditions(
          system, dataset.spec, rows, self.columns)
    self._keys = rng.per_example(
        rng.named(jax.random.key(config.seed), 0, 'grid'), 0, count)

  def write(self, path: str, state, step: int, writer, alarms) -> None:
    """Writes samples/<weights>_<step>.png and TensorBoard images."""
    kinds = {'live': state_lib.variables(state)}
    if state.ema and self._averaged:
      kinds['ema'] = sampling_variables(state)
    for kind, variables in kinds.items():
      samples = self._sampler({**variables, **self._frozen}, self._keys,
                              self._conditions)
      if kind == 'live' and step > 0:
        alarms.check_samples(step, samples)
      if jax.process_index() == 0:
        image = sampler_lib.picture(samples, self.columns)
        name = os.path.join(path, 'samples', f'{kind}_{step:08d}.png')
        files.write_atomic(name, images_lib.to_png(image))
        writer.image(step, f'samples/{kind}', image)


def plan(config, system, spec, mesh, abstract, stages: stages_lib.Stages,
         total_steps: int) -> str:
  """Returns in words what the run will do."""
  device = mesh.devices.flat[0]
  nets = ', '.join(f'{net} {state_lib.count(tree):,} parameters'
                   for net, tree in abstract.params.items())
  split = system.batches_per_step
  height, width, channels = spec.image_shape
  size = (f'{height} x {width} x {channels}' if spec.resolution else 'points')
  classes = f', {spec.num_classes} classes' if spec.num_classes else ''
  lines = [
      f'system    {config.system}: {nets}',
      f'data      {config.data.source}: {spec.num_examples:,} examples, '
      f'{size}{classes}',
      f'devices   {mesh.size} ({device.platform}), mesh data '
      f'{mesh.shape["data"]} x model {mesh.shape["model"]}, '
      f'{jax.process_count()} process(es)',
      f'batch     {stages.at(total_steps).batch_size} over all devices'
      + (f', {split} batches a step' if split > 1 else '')
      + (f', in {config.microbatches} microbatches'
         if config.microbatches > 1 else ''),
      f'length    {total_steps:,} steps = '
      f'{stages.images(total_steps) / 1000:,.1f} kimg',
      f'dtype     {config.dtype}',
      f'seed      {config.seed}',
  ]
  if len(stages.parts) > 1:
    lines += [
        f'stage     from step {stage.first_step:,} = '
        f'{stage.first_image / 1000:,.1f} kimg: '
        f'{stage.resolution} x {stage.resolution}'
        + (', fading in' if stage.fade_images else '')
        + f', batch {stage.batch_size}'
        for stage in stages.until(total_steps)]
  notes = getattr(system, 'notes', ())
  return '\n'.join([*lines, *(f'note      {note}' for note in notes)])


def _interpolates(system) -> bool:
  """Whether there is a way from one latent of images to another."""
  try:
    z = jax.eval_shape(system.latents, jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), 2)))
  except errors.UserError:  # None of its own.
    return False
  return (jax.numpy.issubdtype(z.dtype, jax.numpy.floating)
          and not hasattr(system, 'point_metrics'))


def summary(path: str, config, system, total_steps: int, images: int, clock,
            first: dict[str, float], last: dict[str, float]) -> str:
  """Returns the closing words of a run."""
  lines = ['', f'done: {total_steps:,} steps, '
           f'{images / 1000:,.1f} kimg in '
           f'{clock_lib.in_words(clock.total_seconds())}']
  for name, value in last.items():
    before = f' (untrained net: {first[name]:.4g})' if name in first else ''
    lines.append(f'  {name}: {value:.4g}{before}')
  lines += [
      f'  samples      {os.path.join(path, "samples")}',
      f'  curves       {os.path.join(path, "curves.png")}; numbers in '
      'metrics.jsonl, events for TensorBoard',
      f'  checkpoints  {os.path.join(path, "checkpoints")}',
      'next:',
      f'  python -m gans_jax.sample --workdir={path} --seeds=0-63',
      *([f'  python -m gans_jax.sample --workdir={path} --interpolate=0-7']
        if _interpolates(system) else []),
      f'  python -m gans_jax.evaluate --workdir={path} '
      f'--metrics={",".join(config.evaluate.metrics) or "fd5k_lite0"}',
  ]
  return '\n'.join(lines)
