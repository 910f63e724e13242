"""launch/gke.py: the manifest that it fills in."""

import pytest
import runs
import yaml

MAIN = ['--', '--config=x.py:row=a', '--workdir=/mnt/shared/a "b": $c']
NEEDED = ['--name=gan', '--topology=v5e:4x8', '--image=reg/i:1', '--claim=nfs']


@pytest.fixture(scope='module')
def gke():
  return runs.script('gke')


def test_dry_run_prints_a_manifest(gke, capsys):
  assert gke.main(['--dry_run', *NEEDED, *MAIN]) == 0
  said = capsys.readouterr().out
  manifest = yaml.safe_load(said)
  assert (manifest['apiVersion'], manifest['kind']) == (
      'jobset.x-k8s.io/v1alpha2', 'JobSet')
  assert manifest['metadata']['name'] == 'gan'
  job, = manifest['spec']['replicatedJobs']
  spec = job['template']['spec']
  assert spec['parallelism'] == spec['completions'] == 8  # of 4 chips each
  assert (job['replicas'], spec['backoffLimit']) == (1, 0)
  # A pod that fails for good fails the set; `Never` is what that needs.
  rule, = spec['podFailurePolicy']['rules']
  assert rule['onExitCodes']['values'] == [2, 3]
  pod = spec['template']['spec']
  container, = pod['containers']
  assert rule['onExitCodes']['containerName'] == container['name']
  assert pod['restartPolicy'] == 'Never'
  assert pod['nodeSelector'] == {
      'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
      'cloud.google.com/gke-tpu-topology': '4x8'}
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert container['command'][-3:] == ['--distributed', *MAIN[1:]]
  assert container['volumeMounts'] == [
      {'name': 'shared', 'mountPath': '/mnt/shared'}]
  assert said.rstrip().endswith('# kubectl apply -f -')


def test_spot_slices_and_hosts_of_eight_chips(gke, capsys):
  gke.main(['--dry_run', '--name=g', '--topology=v6e:2x4', '--image=i',
            '--claim=c', '--chips_per_host=8', '--slices=3', '--spot',
            '--restarts=7', *MAIN])
  spec = yaml.safe_load(capsys.readouterr().out)['spec']
  job, = spec['replicatedJobs']
  assert (job['replicas'], spec['failurePolicy']['maxRestarts']) == (3, 7)
  assert job['template']['spec']['parallelism'] == 1
  pod = job['template']['spec']['template']['spec']
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert pod['containers'][0]['resources']['limits']['google.com/tpu'] == 8


@pytest.mark.parametrize('args,words', [
    (['--topology=v5e', *MAIN], 'expected such as v5e:4x4'),
    (['--topology=k80:2x2', *MAIN], 'expected such as v5e:4x4'),
    (['--topology=v5e:4x4', '--chips_per_host=5', *MAIN], 'do not divide'),
    (['--name=Gan_1', *MAIN], 'lower-case letters'),
    ([], 'comes the command line'),
])
def test_refuses(gke, capsys, args, words):
  with pytest.raises(SystemExit) as exit_info:
    gke.main([*NEEDED, *args])
  assert exit_info.value.code == 2
  assert words in capsys.readouterr().err
