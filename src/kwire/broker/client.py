"""A connection to a broker: nats-py in a thread of its own, beside the loop that everything else runs in.

Invariants: one connection at a time serves all users of a process; a user is a coroutine, `serve`, that is
begun anew with each connection and cancelled with it, so nothing outlives a connection unseen; what it has to
do with the rest of the process it does in the loop's thread (`there`, `post`). Connecting is tried again for
ever, server after server; why it failed is told once until it succeeds. The thread begins with `start`, when
privileges are given up: it has none of its own, and loads no code.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kwire.broker.address import SCHEME, BrokerAddress, Login
from kwire.broker.names import BUCKET, CLEANED, STREAM
from kwire.errors import KwireError
from kwire.transport.address import Address
from kwire.transport.log_events import Log
from kwire.transport.loop import READ, Loop
from kwire.transport.rate_limited_log import Recurring

if TYPE_CHECKING:
    import ssl

    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerInfo
    from nats.js.kv import KeyValue

AGAIN: Final = 1.0
"""Seconds between two attempts to connect, or to serve."""

TIMEOUT: Final = 5.0
"""Seconds that a server has to accept us, and to answer."""

PING: Final = 10
"""Seconds after which a silent server is asked whether it lives; twice without an answer, and it is gone."""

LOOK: Final = 1.0
"""Seconds between two looks at whether there is a connection: nats-py does not say that it has closed one
where the last bytes cannot be written, as to a server that is killed, or stopped, while much waits for it.
"""

PENDING: Final = 8 << 20
"""Bytes that may wait to be written; whoever publishes more waits."""

FAREWELL: Final = 2.0
"""Seconds that the last acknowledgements have to leave us."""

WRONG_REVISION: Final = (10071, 10164)
"""Errors that say that a key has another revision."""

NO_MESSAGE: Final = 10037
"""The error that says that a key is not there."""

UNAVAILABLE: Final = 503
"""The error of a cluster most of whose servers are gone."""

OURS: Final = re.compile("ALERT.*CERTIFICATE|ALERT_UNKNOWN_CA")
"""What TLS calls it when the other side refuses our certificate."""

T = TypeVar("T")


class BrokerError(KwireError):
    """A broker does not do what is asked."""


class RefusedError(BrokerError):
    """A broker refuses who we are, or one of us the other's certificate."""


class NoBrokerClientError(KwireError):
    """nats-py is not installed."""


CLOCK_TRIES: Final = 5
"""Writes of others may come between."""


class Connection:
    """A connection that is there: the client, JetStream, and the bucket."""

    __slots__ = ("_bucket", "js", "nc")

    def __init__(self, nc: "Client", js: "JetStreamContext", bucket: "KeyValue | None" = None) -> None:
        self.nc = nc
        self.js = js
        self._bucket = bucket

    @property
    def bucket(self) -> "KeyValue":
        """The bucket of sessions; whoever sets it up has none yet."""
        assert self._bucket is not None
        return self._bucket

    async def get(self, key: str) -> tuple[bytes, int]:
        """A value of the bucket and its revision; nothing and 0 where there is none. BrokerError."""
        subject = json.dumps({"last_by_subj": f"$KV.{BUCKET}.{key}"}).encode()
        answer = await self.nc.request(f"$JS.API.STREAM.MSG.GET.KV_{BUCKET}", subject, timeout=TIMEOUT)
        told = json.loads(answer.data)
        error = told.get("error")
        if error is not None and error.get("err_code") == NO_MESSAGE:
            return b"", 0
        if error is not None:
            raise _refusal("read", key, error)
        message = told["message"]
        if "hdrs" in message and b"KV-Operation" in base64.b64decode(message["hdrs"]):
            return b"", 0  # somebody has deleted it
        return base64.b64decode(message.get("data") or b""), int(message["seq"])

    async def keys(self) -> list[str]:
        """All keys of the bucket; no consumer is made for it, that the servers would keep for a while."""
        prefix = f"$KV.{BUCKET}."
        return [subject.removeprefix(prefix) for subject in await self.subjects(f"KV_{BUCKET}", f"{prefix}>")]

    async def subjects(self, stream: str, wanted: str) -> dict[str, int]:
        """The subjects of a stream of which it has messages, and how many. BrokerError."""
        found: dict[str, int] = {}
        while True:
            question = json.dumps({"subjects_filter": wanted, "offset": len(found)}).encode()
            answer = await self.nc.request(f"$JS.API.STREAM.INFO.{stream}", question, timeout=TIMEOUT)
            told = json.loads(answer.data)
            if "error" in told:
                raise BrokerError("list", f"stream {stream}", str(told["error"].get("description")))
            page = told["state"].get("subjects") or {}
            found |= page
            if not page or len(found) >= told.get("total", 0):
                return found

    async def written(self, key: str) -> float:
        """When a value of the bucket was written, in seconds since 1970 by the broker's clock; 0: it is not
        there.
        """
        from nats.js.errors import NotFoundError

        try:
            found = await self.js.get_last_msg(f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}", direct=False)
        except NotFoundError:
            return 0.0
        return found.time.timestamp() if found.time is not None else 0.0

    async def remove(self, keys: str) -> None:
        """Remove the values of all keys that fit, `*` standing for a part of a name, and leave no mark."""
        await self.js.purge_stream(f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.{keys}")

    async def swap(self, key: str, value: bytes, revision: int) -> int:
        """Put a value where the key has this revision (0: none) still; the new one, 0 where it has not.

        Servers of a cluster look at the revision before they agree on the order of messages (2.9), so of two
        that come at once both may pass. They look for repeats when the order is agreed upon: what follows a
        revision has one id, whoever publishes it, so that only the first counts.
        """
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(revision),
            "Nats-Msg-Id": f"{key}-{revision}",
        }
        answer = await self.nc.request(f"$KV.{BUCKET}.{key}", value, timeout=TIMEOUT, headers=headers)
        told = json.loads(answer.data)
        error = told.get("error")
        if error is not None and error.get("err_code") in WRONG_REVISION:
            return 0
        if error is not None:
            raise _refusal("write", key, error)
        return 0 if told.get("duplicate") else int(told["seq"])

    async def now(self) -> float:
        """The broker's time, in seconds since 1970: that of a write of ours, which changes nothing.
        BrokerError where we may not write, or the broker has no room.
        """
        for _ in range(CLOCK_TRIES):
            value, revision = await self.get(CLEANED)
            try:
                if await self.swap(CLEANED, value or b"0", revision):
                    return await self.written(CLEANED)
            except TimeoutError:  # so do brokers refuse, by permission
                break
            if not revision:
                await self.remove(CLEANED)  # a mark that somebody has deleted it
        cause = "nothing can be written to the bucket"
        raise BrokerError("read", "the broker's clock", cause, "let this user write to it, or make room")


def acknowledged(info: "ConsumerInfo") -> int:
    """Up to where in the stream all is acknowledged, or gone. Where something goes before it is acknowledged,
    servers (2.9) may leave the floor that they tell below it until the next moment at which nothing waits.
    """
    told = info.ack_floor if info.num_ack_pending else info.delivered
    return told.stream_seq if told else 0


def _refusal(operation: str, key: str, error: Mapping[str, Any]) -> BrokerError:
    """What JetStream says instead of an answer."""
    away = error.get("code") == UNAVAILABLE
    cause = "JetStream does not answer there" if away else str(error.get("description"))
    return BrokerError(operation, f"{key} of the bucket", cause)


Serve = Callable[[Connection], Awaitable[None]]


def _nothing(serve: Serve) -> None:
    """There is no connection: it is served with the next one."""


class Broker:
    """The way to a broker. `say` is called in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        address: BrokerAddress,
        login: Login,
        say: Log,
        name: str = "kwire",
    ) -> None:
        """Everything that is needed later is loaded here. NoBrokerClientError where nats-py is missing."""
        load(login)
        self.loop = loop
        self.address = address
        self.refused = False
        """The broker refuses who we are, or the certificate of one of us, as far as is known now."""
        self.at_refusal: list[Callable[[], None]] = []
        """Called, in the loop's thread, when that is so."""
        self.up = False
        """There is a connection, as far as the loop's thread knows."""
        self.connections = 0
        """Connections made so far."""
        self._login = login
        self._name = name
        self._say = say
        self._troubles = Recurring(loop.now, say)
        self._users: list[Serve] = []
        self._join: Callable[[Serve], None] = _nothing  # has it served on the connection that there is
        self._posted: deque[Callable[[], None]] = deque()  # for the loop's thread
        self._submitted: deque[Callable[[], None]] = deque()  # for the broker's
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._aio = asyncio.new_event_loop()
        self._aio.set_exception_handler(self._unheard)
        self._main: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        loop.add(self._wake, READ, self._hear)

    # ------------------------------------------------------------------ in the loop's thread

    def use(self, serve: Serve) -> None:
        """Add a user, which is served on the connection that there is, too."""
        self._users.append(serve)
        if self._thread is not None:
            self.submit(lambda: self._join(serve))

    def leave(self, serve: Serve) -> None:
        """A user has all that it wanted, and ends by itself: it is served no more on connections to come."""
        if serve in self._users:
            self._users.remove(serve)

    def renew(self, login: Login) -> None:
        """Be this one, which was loaded (`load`), from the next connection on."""
        self._login = login

    def start(self) -> None:
        """Begin to connect."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
            self._thread.start()

    def submit(self, function: Callable[[], None]) -> None:
        """Call a function in the broker's thread, soon."""
        self._submitted.append(function)
        if len(self._submitted) == 1 and not self._aio.is_closed():  # else it is told already
            self._aio.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        while self._submitted:
            function = self._submitted[0]
            try:
                function()
            except Exception as error:
                self.post(partial(self.loop.contain, error))
            self._submitted.popleft()  # only now: who comes meanwhile need not wake us

    def close(self) -> None:
        """End the connection: users are cancelled, what they had written leaves."""
        if self._wake < 0:
            return
        self._stopping = True
        if self._thread is not None:
            self.submit(self._cancel)
            deadline = time.monotonic() + 2 * FAREWELL
            while self._thread.is_alive() and time.monotonic() < deadline:
                self._thread.join(0.01)
                self._hear(0)  # a user may wait for us
        elif not self._aio.is_closed():
            self._aio.close()
        self._hear(0)
        self.loop.remove(self._wake)
        os.close(self._wake)
        self._wake = -1

    def _hear(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        left = len(self._posted)
        while left and self._posted:
            function, left = self._posted.popleft(), left - 1
            if not left and self._posted:  # what has come meanwhile has its turn, and did not wake us
                os.eventfd_write(self._wake, 1)
            try:
                function()
            except Exception as error:
                self.loop.contain(error)

    # ------------------------------------------------------------------ from the broker's thread

    def post(self, function: Callable[[], None]) -> None:
        """Call a function in the loop's thread, soon."""
        self._posted.append(function)
        if len(self._posted) == 1 and self._wake >= 0:  # else it is told already
            os.eventfd_write(self._wake, 1)

    async def there(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread, and give what it gives, or raise what it raises."""
        future: asyncio.Future[T] = self._aio.create_future()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_it(value)

        def call() -> None:
            try:
                value = function()
            except Exception as error:
                self.submit(partial(settle, future.set_exception, error))
            else:
                self.submit(partial(settle, future.set_result, value))

        self.post(call)
        return await future

    def tell(self, text: str, event: str = "unreachable") -> None:
        """Tell people of a trouble that may last until a connection is made."""
        self.post(partial(self._troubles.say, text, event))

    def trouble(self, error: KwireError) -> None:
        """Tell people what is tried again."""
        self.tell(f"{error} (trying again)", _kind(error))

    # ------------------------------------------------------------------ within

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody waits for. Tasks of nats-py end so where a connection is lost while they
        close it, and others are not ended at all: that there is no connection any more is looked at (`LOOK`).
        """
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.post(partial(self.loop.contain, error))

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        """The broker's thread."""
        asyncio.set_event_loop(self._aio)
        self._main = self._aio.create_task(self._connect_again())
        try:
            self._aio.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            failure = error
            self.post(lambda: self.loop.contain(failure))
        finally:
            try:
                for task in asyncio.all_tasks(self._aio):
                    task.cancel()
                self._aio.run_until_complete(asyncio.sleep(0))
            finally:
                self._aio.close()

    async def _connect_again(self) -> None:
        servers = deque(self.address.servers)
        while True:
            server = servers[0]
            servers.rotate(-1)
            try:
                await self._serve(server)
            except KwireError as error:
                self.post(partial(self.loop.count, "connect", _kind(error)))
                self.trouble(error)
            if len(servers) == 1 or server == self.address.servers[-1]:
                await asyncio.sleep(AGAIN)

    async def _serve(self, server: Address) -> None:
        """Connect to a server, and serve until the connection ends."""
        gone = asyncio.Event()
        nc = await self._connect(server, gone)
        served: dict[Serve, asyncio.Task[None]] = {}
        try:
            self.connections += 1
            self.post(self._connected)

            def join(serve: Serve) -> None:
                if serve not in served and serve in self._users:
                    served[serve] = task = self._aio.create_task(self._use(nc, serve))
                    task.add_done_callback(lambda _: serve in self._users or served.pop(serve, None))

            self._join = join
            for serve in list(self._users):
                join(serve)
            while nc.is_connected and not gone.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), LOOK)
        finally:
            self._join = _nothing
            tasks = list(served.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await quietly(nc.close())
            self.post(self._gone)

    def _connected(self) -> None:
        self.refused, self.up = False, True
        self._troubles.over()
        self._say(f"{self.address} is connected", "connected")

    async def _connect(self, server: Address, gone: asyncio.Event) -> "Client":
        """A client connected to this server; BrokerError where that cannot be."""

        def failed(error: Exception) -> None:
            if "ermission" in str(error):
                self.tell(f"{self.address}: {str(error).removeprefix('nats: ')}", "refused")

        try:
            return await connect(server, self._login, self._name, failed, gone.set)
        except BrokerError as error:
            if isinstance(error, RefusedError):
                self.post(self._refuse)
            raise

    def _gone(self) -> None:
        self.up = False

    def _refuse(self) -> None:
        self.refused = True
        for heard in list(self.at_refusal):
            heard()

    async def _use(self, nc: "Client", serve: Serve) -> None:
        """Let a user have the connection, again and again until it is content."""
        while not nc.is_closed:
            try:
                js = nc.jetstream(timeout=TIMEOUT)
                bucket = await bucket_of(js, self.address)
                await _fit(js, self.address)
                await serve(Connection(nc, js, bucket))
                return
            except KwireError as error:
                self.trouble(error)
            except Exception as error:
                if nc.is_closed:
                    return
                self.trouble(BrokerError("use", str(self.address), plain(error)[0]))
            await asyncio.sleep(AGAIN)


def _kind(error: KwireError) -> str:
    """What keeps us apart, in one word: a reason of metrics, and an event of life."""
    if "certificate" in error.cause:
        return "certificate"
    return "refused" if isinstance(error, RefusedError) else "unreachable"


async def connect(
    server: Address,
    login: Login,
    name: str,
    failed: Callable[[Exception], None] = lambda error: None,
    gone: Callable[[], None] = lambda: None,
) -> "Client":
    """A client connected to a server, for as long as that connection lasts; `gone` is called when it ends,
    `failed` with what the server says of us. BrokerError where that cannot be.
    """
    from nats.aio.client import Client

    nc, last = Client(), list[Exception]()
    url = f"{SCHEME}{str(server).partition(':')[2]}"

    async def heard(error: Exception) -> None:
        last.append(error)
        failed(error)

    async def closed() -> None:
        gone()

    options: dict[str, Any] = {}
    if login.tls is not None:
        options |= {"tls": login.tls, "tls_hostname": server.host}
    if login.jwt:
        jwt = login.jwt.encode()
        options |= {"user_jwt_cb": lambda: bytearray(jwt), "signature_cb": _signer(login.seed)}
    elif login.seed:
        options |= {"nkeys_seed_str": login.seed}
    elif login.token:
        options |= {"token": login.token}
    elif login.user:
        options |= {"user": login.user, "password": login.password}
    try:
        await asyncio.wait_for(
            nc.connect(
                url,
                name=name,
                error_cb=heard,
                closed_cb=closed,
                disconnected_cb=closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(TIMEOUT),
                ping_interval=PING,
                pending_size=PENDING,
                **options,
            ),
            2 * TIMEOUT,
        )
    except asyncio.CancelledError:
        raise
    except Exception as error:
        await quietly(nc.close())
        told = last[0] if last and type(error).__name__ == "NoServersError" else error
        if login.tls is not None and isinstance(told, ConnectionError):
            told = await _alert(server, login.tls) or told
        cause, refusal = plain(told)
        raise (RefusedError if refusal else BrokerError)("connect to", url, cause) from None
    return nc


async def _alert(server: Address, context: "ssl.SSLContext") -> Exception | None:
    """Why a server ends a connection of ours when the TLS handshake is over for us, as far as it says: it has
    looked at our certificate only then, and what it says of it may be lost where we write at once.
    """
    import ssl

    async def read() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            await reader.readline()  # who it is
            await writer.start_tls(context, server_hostname=server.host)
            await reader.read(1)
        finally:
            writer.close()

    try:
        await asyncio.wait_for(read(), FAREWELL)
    except ssl.SSLError as error:
        return error
    except Exception:
        return None
    return None


async def bucket_of(js: "JetStreamContext", address: BrokerAddress) -> "KeyValue":
    """The bucket of sessions. BrokerError where there is none."""
    from nats.js.errors import BucketNotFoundError, NotFoundError

    try:
        return await js.key_value(BUCKET)
    except (BucketNotFoundError, NotFoundError):
        raise absent(f"bucket {BUCKET}", address) from None


async def _fit(js: "JetStreamContext", address: BrokerAddress) -> None:
    """BrokerError where the stream is such that what is published to it is not kept for all groups. Of one
    that is not there, or that we may not look at, the answer to a publication tells.
    """
    try:
        config = (await js.stream_info(STREAM)).config
    except Exception:
        return
    if problem := unfit(config, address):
        raise problem


def unfit(config: Any, address: BrokerAddress) -> BrokerError | None:
    """What is wrong with the settings of the stream, which others than `kwire fleet init` have made."""
    retention = str(getattr(config.retention, "value", config.retention) or "limits")
    if retention != "limits":
        cause = (
            f"its stream {STREAM} has the retention {retention}: what no group waits for, or one has, is gone"
        )
        cure = f"remove that stream, with all that is in it, and kwire fleet init {address} makes it anew"
        return BrokerError("use", str(address), cause, cure)
    if config.no_ack:
        cause = f"its stream {STREAM} acknowledges nothing (no_ack)"
        return BrokerError("use", str(address), cause, f"kwire fleet init {address} changes that")
    return None


def absent(what: str, address: BrokerAddress) -> BrokerError:
    """What `kwire fleet init` makes is not there."""
    cure = f"kwire fleet init {address} makes it"
    return BrokerError("use", str(address), f"it has no {what}", cure)


def load(login: Login) -> None:
    """Import everything that a connection may need. NoBrokerClientError where something is missing."""
    try:
        import nats.aio.client
        import nats.js.api
        import nats.js.errors
        import nats.js.kv  # noqa: F401
    except ImportError:
        raise _missing("nats-py is not installed") from None
    import concurrent.futures.thread  # noqa: F401  # looks up names
    import logging

    for library in ("asyncio", "nats"):  # what concerns people is said by us, in a line
        logging.getLogger(library).addHandler(logging.NullHandler())

    json.dumps({})
    if login.seed:
        try:
            _signer(login.seed)("")
        except ImportError:
            raise _missing("nkeys is not installed") from None
        except Exception:
            raise KwireError("use", "NKey", "the seed is none", "name a file that nsc or nk made") from None


def _missing(cause: str) -> KwireError:
    return NoBrokerClientError("use", "nats://", cause, "pip install 'kwire[nats]'")


def _signer(seed: str) -> Callable[[str], bytes]:
    """What signs a server's nonce with a seed."""
    import base64

    import nkeys

    def sign(nonce: str) -> bytes:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    return sign


async def quietly(last: Awaitable[Any]) -> None:
    """Do the last thing on a connection, which may be gone, or hang."""
    with contextlib.suppress(Exception):  # it was gone already
        await asyncio.wait_for(last, FAREWELL)


def plain(error: BaseException) -> tuple[str, bool]:
    """Why something failed, in plain words; whether who we are is refused, or a certificate."""
    import ssl

    name, text = type(error).__name__, " ".join(str(error).split())[:200].removeprefix("nats: ")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}", True
    if isinstance(error, ssl.SSLError) and OURS.search(error.reason or ""):
        return "it refuses our certificate, or we show it none", True
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or 'failed').lower().replace('_', ' ')}", True
    if name == "AuthorizationError" or "uthorization" in text or "uthentication" in text:
        return "it refuses who we are", True
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return "it does not answer", False
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there", False
    if isinstance(error, OSError):
        return (os.strerror(error.errno).lower() if error.errno else text or "failed"), False
    if name in ("NoRespondersError", "NoStreamResponseError", "ServiceUnavailableError"):
        return "JetStream does not answer there", False
    description = getattr(error, "description", None)
    return str(description or text or name), False
