"""A headless Chromium, driven over a pipe by the DevTools protocol.

Nothing but the browser is needed: requests and answers are JSON, each ended by
a zero byte, on the file descriptors 3 and 4 of the browser.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-extensions',
    '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe')


class Browser:
  """A browser with one page; a context manager.

  Attributes:
    complaints: errors and warnings of the page's console, exceptions of its
      script.
    requests: addresses that the page asked for; data: ones, and those that
      its policy refused, are left out.
  """

  def __enter__(self) -> 'Browser':
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    assert program, (
        'These tests look at pages in Chromium, which is not installed: '
        'apt-get install --no-install-recommends chromium')
    self.complaints, self.requests, self._addresses = [], [], {}
    self._events, self._last = [], 0
    self._profile = tempfile.mkdtemp()
    to_browser, self._write = os.pipe()
    self._read, from_browser = os.pipe()
    self._process = subprocess.Popen(
        ['bash', '-c', f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}',
         program, *_FLAGS, f'--user-data-dir={self._profile}', 'about:blank'],
        pass_fds=(to_browser, from_browser), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    os.close(to_browser)
    os.close(from_browser)
    self._buffer, self._session = b'', None
    try:
      pages = self.call('Target.getTargets')['targetInfos']
      target = next(p['targetId'] for p in pages if p['type'] == 'page')
      self._session = self.call('Target.attachToTarget', targetId=target,
                                flatten=True)['sessionId']
      for domain in ('Page', 'Runtime', 'Log', 'Network'):
        self.call(f'{domain}.enable')
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *unused_exception) -> None:
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    os.close(self._read)
    os.close(self._write)
    shutil.rmtree(self._profile, ignore_errors=True)

  def call(self, method: str, **parameters) -> dict:
    """Returns the answer to one command of the protocol."""
    self._last += 1
    message = {'id': self._last, 'method': method, 'params': parameters}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._write, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._next()
      if answer.get('id') == self._last:
        assert 'error' not in answer, (method, answer)
        return answer['result']

  def open(self, path, width: int = 1280, dark: bool = False) -> None:
    """Opens a file in a window of this width, and waits until it is drawn."""
    self.resize(width, dark)
    self._events.clear()
    self.call('Page.navigate', url=f'file://{path}')
    while 'Page.loadEventFired' not in self._events:
      self._next()
    self.settle()

  def resize(self, width: int, dark: bool = False) -> None:
    """Sets the window's width in pixels, and the colour scheme."""
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=800,
              deviceScaleFactor=1, mobile=width < 600)
    self.call('Emulation.setEmulatedMedia', features=[{
        'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])

  def settle(self) -> None:
    """Waits until what was changed is drawn."""
    self.run('new Promise(done => requestAnimationFrame('
             '() => requestAnimationFrame(() => done(0))))')

  def run(self, expression: str):
    """Returns the value of a JavaScript expression, a promise's included."""
    answer = self.call('Runtime.evaluate', expression=expression,
                       awaitPromise=True, returnByValue=True)
    assert 'exceptionDetails' not in answer, answer['exceptionDetails']
    return answer['result'].get('value')

  def change(self, identity: str, value) -> None:
    """Sets a control as a hand would."""
    what = 'checked' if isinstance(value, bool) else 'value'
    self.run(f'(e => {{ e.{what} = {json.dumps(value)}; e.dispatchEvent('
             f"new Event('input', {{bubbles: true}})); }})"
             f'(document.getElementById({json.dumps(identity)}))')

  def move(self, x: float, y: float) -> None:
    """Moves the mouse to a point of the window."""
    self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

  def press(self, key: str) -> None:
    """Presses a key where the focus is."""
    for kind in ('keyDown', 'keyUp'):
      self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key)

  def screenshot(self, path) -> None:
    """Writes a PNG of the whole page."""
    answer = self.call('Page.captureScreenshot', captureBeyondViewport=True)
    with open(path, 'wb') as f:
      f.write(base64.b64decode(answer['data']))

  def _next(self) -> dict:
    while b'\0' not in self._buffer:
      ready, _, _ = select.select([self._read], [], [], 120)
      piece = os.read(self._read, 1 << 20) if ready else b''
      assert piece, 'the browser has died, or is silent for two minutes'
      self._buffer += piece
    line, self._buffer = self._buffer.split(b'\0', 1)
    message = json.loads(line)
    self._note(message.get('method', ''), message.get('params', {}))
    return message

  def _note(self, method: str, parameters: dict) -> None:
    self._events.append(method)
    if method == 'Runtime.exceptionThrown':
      self.complaints.append(parameters['exceptionDetails'])
    elif method == 'Log.entryAdded':
      self.complaints.append(parameters['entry']['text'])
    elif method == 'Runtime.consoleAPICalled':
      self.complaints.append(parameters['args'])
    elif method == 'Network.requestWillBeSent':
      url = parameters['request']['url']
      if not url.startswith('data:'):
        self._addresses[parameters['requestId']] = url
        self.requests.append(url)
    elif parameters.get('blockedReason') == 'csp':
      self.requests.remove(self._addresses[parameters['requestId']])
