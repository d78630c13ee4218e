"""A thousand Chelsea servers, simulated from what one was measured to do.

    python3 scripts/scale/simulate.py --measured scripts/scale/measured.json --json docs/results/scale.json

Conversations come at random, each with a long first prompt and some short turns, and are sent to servers by a router that
knows where their prompts lie. How long a step takes, how many bytes a cache has, and how much of a prompt is found again
where it was read follow from `measured.json`; nothing is drawn but what clients do. The same seed gives the same numbers.

A server is what `chelsea serve` is: each step takes one token of every running answer and one chunk of one prompt, the
one that is done first; caches, checkpoints among them, keep within one promise of bytes, and the checkpoint that was used
longest ago goes first. Between two events the rates of a server do not change, so that it need not be stepped: how far
every answer is follows from one clock, which counts the tokens that each of them was given.

With `--split` a part of the servers reads and the others answer. A prompt that is short, or of which most lies on the
answering server, is read there. A cache goes over the network as one stream; a server's link is shared by those that go
over it at once.

docs/scale.md tells what is assumed, and what came out.
"""

import argparse
import heapq
import itertools
import json
import math
import pathlib
import random
from collections import OrderedDict
from dataclasses import dataclass, field

# Seconds for which a cache that arrived waits for room (the server's `patience`).
ROOM = 10.0


@dataclass
class Machine:
    """What one server does, as it was measured."""

    chunk: int  # tokens of a prompt in a step
    read_token: float  # seconds for each token that is read
    read_entry: float  # and for each entry that it attends to
    step: float  # seconds of a step in which one answer goes on
    row: float  # and for every further answer
    entry: float  # and for each entry that answers attend to
    bytes_token: float  # bytes of a token in a full cache
    memory: float  # bytes of all caches of a server
    share: float  # what a cache keeps, of the bytes
    entries: float  # what a cache keeps, of the entries
    block: int  # entries that reading holds beyond that

    def kept(self, tokens: float) -> float:
        """Entries of a cache that has seen so many tokens."""
        return tokens if self.share >= 1 else min(tokens, max(self.entries * tokens, self.block))

    def held(self, tokens: float) -> float:
        """Bytes of a cache that has seen so many tokens."""
        return tokens * self.bytes_token * self.share

    def reading(self, first: float, last: float) -> float:
        """Seconds that reading takes, from one token to another, with nothing beside it."""
        if last <= first:
            return 0.0
        # What is compressed while it is read never holds more than it keeps of the whole, and a block.
        most = last if self.share >= 1 else self.kept(last) + self.block
        attended = (min(last, most) ** 2 - min(first, most) ** 2) / 2 + max(0, last - max(first, most)) * most
        return self.read_token * (last - first) + self.read_entry * attended

    def step_of(self, answers: int, entries: float) -> float:
        return self.step + self.row * (answers - 1) + self.entry * entries if answers else 0.0


@dataclass
class Turn:
    """One request."""

    talk: int
    asked: float
    tokens: int  # of the prompt
    answer: int  # tokens
    cached: int = 0
    read: float = 0.0  # seconds of reading that are left
    pause: float = 0.0  # seconds of a step of its reading
    ends: float = 0.0  # on the clock of its server
    first: float = math.nan  # seconds to the first token, once there is one
    ended: float = math.nan
    moved: float = 0.0

    def waited(self, until: float) -> float:
        """Seconds to its first token, or those it has waited for one."""
        return until - self.asked if math.isnan(self.first) else self.first


@dataclass
class Server:
    """One server, whose state holds as of `now`."""

    number: int
    machine: Machine
    now: float = 0.0
    clock: float = 0.0  # tokens that every answer was given so far
    reading: list = field(default_factory=list)  # heap of (seconds left when it came, number, turn)
    answering: list = field(default_factory=list)  # heap of (end on the clock, number, turn)
    waiting: list = field(default_factory=list)
    shelf: OrderedDict = field(default_factory=OrderedDict)  # conversation -> tokens of its checkpoint
    shelf_bytes: float = 0.0
    active_bytes: float = 0.0
    entries: float = 0.0
    version: int = 0
    sending: float = 0.0  # when its link is free
    busy: float = 0.0

    def load(self) -> float:
        """Seconds of work that wait here."""
        return sum(turn.read for _, _, turn in self.reading) + 0.02 * len(self.answering) + 5.0 * len(self.waiting)

    def rates(self):
        """Seconds of reading, and tokens of each answer, that come in a second."""
        step = self.machine.step_of(len(self.answering), self.entries)
        if not self.reading:
            return 0.0, (1 / step if step else 0.0)
        pause = self.reading[0][2].pause
        return pause / (pause + step), 1 / (pause + step)

    def advance(self, now: float):
        read, tokens = self.rates()
        passed = now - self.now
        if self.reading:
            self.reading[0][2].read -= read * passed
        self.clock += tokens * passed
        self.busy += passed if self.reading or self.answering else 0.0
        self.now = now

    def next_event(self):
        """When something ends, and what."""
        read, tokens = self.rates()
        times = []
        if self.reading:
            times.append((self.now + max(0.0, self.reading[0][2].read) / read, "read"))
        if self.answering:
            times.append((self.now + max(0.0, self.answering[0][0] - self.clock) / tokens, "answered"))
        return min(times) if times else None

    def has_room_for(self, bytes_: float) -> bool:
        """Whether there is room for so many bytes if every checkpoint is given up."""
        return self.active_bytes + bytes_ <= self.machine.memory

    def room_for(self, bytes_: float) -> bool:
        """Makes room by giving checkpoints up; false where answers hold too much."""
        if not self.has_room_for(bytes_):
            return False
        while self.shelf and self.active_bytes + bytes_ + self.shelf_bytes > self.machine.memory:
            _, tokens = self.shelf.popitem(last=False)
            self.shelf_bytes -= self.machine.held(tokens)
        return True

    def keep(self, talk: int, tokens: int):
        """Puts a checkpoint on the shelf, if there is room for it beside the answers."""
        self.drop(talk)
        if self.room_for(self.machine.held(tokens)):
            self.shelf[talk] = tokens
            self.shelf_bytes += self.machine.held(tokens)

    def drop(self, talk: int):
        tokens = self.shelf.pop(talk, None)
        if tokens is not None:
            self.shelf_bytes -= self.machine.held(tokens)


class World:
    def __init__(self, machine: Machine, args, rate: float, readers: int):
        self.machine, self.args, self.rate = machine, args, rate
        self.rng = random.Random(args.seed)
        self.count = itertools.count()
        self.events = []
        self.servers = [Server(i, machine) for i in range(args.servers)]
        # The first ones read where reading is apart.
        self.readers, self.answerers = (self.servers[:readers], self.servers[readers:]) if readers else (None, self.servers)
        self.talks = {}
        self.done = []
        # Every turn that was asked, answered or not.
        self.turns = []
        # Caches that came for nothing, since there was no room for them.
        self.lost = 0
        self.new_talk(self.rng.expovariate(rate))

    def at(self, time: float, what: str, *more):
        heapq.heappush(self.events, (time, next(self.count), what, more))

    def new_talk(self, time: float):
        if time < self.args.seconds:
            self.at(time, "talk")

    def length(self) -> int:
        drawn = self.rng.lognormvariate(math.log(self.args.prompt), self.args.spread)
        return int(min(max(drawn, 256), self.args.longest))

    def run(self):
        while self.events:
            time, _, what, more = heapq.heappop(self.events)
            getattr(self, what)(time, *more)
        return self

    # What happens.

    def talk(self, time: float):
        self.new_talk(time + self.rng.expovariate(self.rate))
        number = len(self.talks)
        turns = 1
        while turns < 20 and self.rng.random() < 1 - 1 / self.args.turns:
            turns += 1
        self.talks[number] = {"left": turns, "tokens": 0}
        self.ask(time, number, self.length())

    def ask(self, time: float, number: int, fresh: int):
        talk = self.talks[number]
        answer = max(8, int(self.rng.expovariate(1 / self.args.answer)))
        turn = Turn(number, time, talk["tokens"] + fresh, answer)
        talk["tokens"] = turn.tokens + answer
        self.turns.append(turn)
        server = self.choose(self.answerers, number)
        found = min(server.shelf.get(number, 0), turn.tokens)
        if self.readers and turn.tokens - found > self.args.read_here:
            reader = self.choose(self.readers, number)
            self.enter(time, reader, turn, server)
        else:
            self.enter(time, server, turn, None)

    def choose(self, servers: list, talk: int) -> Server:
        """The one that has the conversation, unless it has much more to do than others; else the idler of a few."""
        some = [servers[self.rng.randrange(len(servers))] for _ in range(self.args.looks)]
        idlest = min(some, key=Server.load)
        home = self.talks[talk].get(id(servers))
        if home is not None and talk in home.shelf and home.load() <= idlest.load() + self.args.patience:
            return home
        self.talks[talk][id(servers)] = idlest
        return idlest

    def enter(self, time: float, server: Server, turn: Turn, answerer):
        server.advance(time)
        self.admit(server, turn, answerer)
        self.plan(server)

    def admit(self, server: Server, turn: Turn, answerer):
        needed = self.machine.held(turn.tokens + (0 if answerer else turn.answer))
        if not server.has_room_for(needed):
            # What it is to go on from stays a checkpoint meanwhile, which only others may push out.
            server.waiting.append((turn, answerer))
            return
        # What is gone on from is no checkpoint any more until the turn's own takes its place: its bytes are among those
        # that are needed, so that others make room for the rest.
        found = min(server.shelf.get(turn.talk, 0), turn.tokens)
        server.drop(turn.talk)
        server.room_for(needed)
        server.active_bytes += needed
        if not turn.moved:
            # What came over the network was read, not found.
            turn.cached = found
        turn.read = self.machine.reading(found, turn.tokens)
        chunks = max(1, math.ceil((turn.tokens - found) / self.machine.chunk))
        turn.pause = turn.read / chunks if turn.read else 1e-4
        turn.needed, turn.answerer = needed, answerer
        heapq.heappush(server.reading, (turn.read, next(self.count), turn))

    def plan(self, server: Server):
        server.version += 1
        if event := server.next_event():
            self.at(event[0], "happens", server, server.version, event[1])

    def happens(self, time: float, server: Server, version: int, what: str):
        if version != server.version:
            return
        server.advance(time)
        if what == "read":
            _, _, turn = heapq.heappop(server.reading)
            if turn.answerer:
                self.leave(server, turn, turn.tokens)
                self.send(time, server, turn)
            else:
                self.begin(server, turn)
        else:
            _, _, turn = heapq.heappop(server.answering)
            server.entries -= self.machine.kept(turn.tokens + turn.answer / 2)
            self.leave(server, turn, turn.tokens)
            self.finish(time, turn)
        self.plan(server)

    def begin(self, server: Server, turn: Turn):
        # The first token comes with the end of reading.
        turn.first = server.now - turn.asked
        turn.ends = server.clock + turn.answer
        server.entries += self.machine.kept(turn.tokens + turn.answer / 2)
        heapq.heappush(server.answering, (turn.ends, next(self.count), turn))

    def leave(self, server: Server, turn: Turn, tokens: int):
        """A turn is over here: its cache becomes a checkpoint, and whoever waited is let in."""
        server.active_bytes -= turn.needed
        server.keep(turn.talk, tokens)
        waiting, server.waiting = server.waiting, []
        for turn, answerer in waiting:
            self.admit(server, turn, answerer)

    def send(self, time: float, reader: Server, turn: Turn):
        """The cache goes to the one who answers, over both links."""
        bytes_ = self.machine.held(turn.tokens)
        turn.moved += bytes_
        begins = max(time, reader.sending, turn.answerer.sending)
        ends = begins + bytes_ * 8 / self.args.link
        reader.sending = turn.answerer.sending = ends
        self.at(ends, "arrives", turn)

    def arrives(self, time: float, turn: Turn, since=None):
        server = turn.answerer
        since = time if since is None else since
        server.advance(time)
        if server.has_room_for(self.machine.held(turn.tokens)):
            # It lies on the shelf until its turn comes, at once as a rule.
            server.keep(turn.talk, turn.tokens)
        elif time < since + ROOM:
            self.at(min(time + 0.5, since + ROOM), "arrives", turn, since)
            self.plan(server)
            return
        else:
            # Its prompt is read here.
            self.lost += 1
        self.admit(server, turn, None)
        self.plan(server)

    def finish(self, time: float, turn: Turn):
        turn.ended = time
        self.done.append(turn)
        talk = self.talks[turn.talk]
        talk["left"] -= 1
        if talk["left"] > 0 and talk["tokens"] + self.args.fresh < self.args.longest:
            self.at(time + self.rng.expovariate(1 / self.args.think), "ask", turn.talk, self.args.fresh)


def quantile(values: list, share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else math.nan


def summary(world: World, args) -> dict:
    """Of what was asked once servers were warm and before clients stopped coming.

    Whoever still waited for a first token when clients stopped coming is counted by when it came afterwards, and by the
    time of waiting if it never did.
    """
    turns = [turn for turn in world.turns if args.warm <= turn.asked < args.seconds]
    span = args.seconds - args.warm
    ended = [turn for turn in world.done if args.warm <= turn.ended < args.seconds]
    end = world_end(world)
    firsts = [turn.waited(end) for turn in turns]
    late = sum(not turn.asked + turn.first < args.seconds for turn in turns)
    prompt = sum(turn.tokens for turn in turns)
    return {
        "requests": len(turns),
        "requests a second": round(len(ended) / span, 1),
        "answer tokens a second": round(sum(turn.answer for turn in ended) / span),
        "first token, median": round(quantile(firsts, 0.5), 2),
        "first token, p99": round(quantile(firsts, 0.99), 2),
        "without one at the end": round(late / max(1, len(turns)), 3),
        "caches moved for nothing": world.lost,
        "never answered": sum(math.isnan(turn.ended) for turn in turns),
        "found on shelves": round(sum(min(turn.cached, turn.tokens) for turn in turns) / max(1, prompt), 3),
        "GB moved a second": round(sum(turn.moved for turn in turns) / span / 1e9, 3),
        "busy": round(sum(server.busy for server in world.servers) / len(world.servers) / max(1.0, end), 3),
    }


def world_end(world: World) -> float:
    return max((turn.ended for turn in world.done), default=1.0)


def machines(measured: dict) -> dict:
    common = {key: measured[key] for key in ("chunk", "read_token", "step", "row", "bytes_token", "memory", "block")}
    named = {}
    for name, kept in measured["caches"].items():
        named[name] = Machine(**common, **kept)
    return named


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--measured", type=pathlib.Path, default=pathlib.Path(__file__).with_name("measured.json"))
    about.add_argument("--servers", type=int, default=1000)
    about.add_argument("--seconds", type=float, default=400, help="for how long clients come")
    about.add_argument("--warm", type=float, default=150, help="seconds of these that are not counted")
    about.add_argument("--rates", type=float, nargs="*", default=[50, 100, 150], help="conversations a second")
    about.add_argument("--prompt", type=float, default=4000, help="median tokens of a first prompt")
    about.add_argument("--spread", type=float, default=0.7, help="of its logarithm")
    about.add_argument("--longest", type=int, default=8000)
    about.add_argument("--turns", type=float, default=4, help="mean turns of a conversation")
    about.add_argument("--fresh", type=int, default=200, help="tokens that a turn adds")
    about.add_argument("--answer", type=float, default=250, help="mean tokens of an answer")
    about.add_argument("--think", type=float, default=30, help="mean seconds between turns")
    about.add_argument("--looks", type=int, default=4, help="servers that the router looks at beside a conversation's own")
    about.add_argument("--patience", type=float, default=2.0, help="seconds of work by which its own may be behind")
    about.add_argument("--readers", type=float, default=0.6, help="share of servers that read, where reading is apart")
    about.add_argument("--read-here", type=int, default=512, help="fresh tokens that an answering server reads itself")
    about.add_argument("--link", type=float, default=1e9, help="bits a second of a server's link")
    about.add_argument("--seed", type=int, default=1)
    about.add_argument("--json", type=pathlib.Path)
    args = about.parse_args()
    measured = json.loads(args.measured.read_text())
    rows = []
    columns = ["conversations/s", "cache", "split", "requests a second", "answer tokens a second", "first token, median"]
    columns += ["first token, p99", "without one at the end", "found on shelves", "GB moved a second"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for rate in args.rates:
        for name, machine in machines(measured).items():
            for split in (False, True):
                readers = int(args.readers * args.servers) if split else 0
                row = summary(World(machine, args, rate, readers).run(), args)
                row = {"conversations/s": rate, "cache": name, "split": "yes" if split else "no", **row}
                rows.append(row)
                print("| " + " | ".join(str(row[column]) for column in columns) + " |", flush=True)
    if args.json:
        settings = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(args).items()}
        settings.pop("json"), settings.pop("measured")
        args.json.write_text(json.dumps({"settings": settings, "measured": measured, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
