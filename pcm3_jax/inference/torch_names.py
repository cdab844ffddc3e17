"""Finds one PCM³ network among the named tensors of a PyTorch checkpoint.

Programs wrap networks in others (data parallelism, compilation, Lightning), train one encoder for
each stream side by side, or save an encoder under any name.  Each step here only changes names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from pcm3_jax.data.skeleton import STREAMS
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import shown
from pcm3_jax.settings import Stream

# Attributes under which PyTorch's wrappers hold the network.
_WRAPPERS = {"module", "model", "_orig_mod"}
_FIRST = "encoder.gru.weight_ih_l0"
# Words in the names of encoders that are moving averages of the trained one.
_AVERAGED = {"k", "key", "momentum", "ema", "teacher", "target"}
_MOST_LISTED = 12
_STREAM = re.compile(rf"(?:^|[._])({'|'.join(STREAMS)})(?=[._]|$)")


def find_network(names: Iterable[str], stream: Stream, what: str) -> dict[str, str]:
    """The tensors of one stream's network, by their names in the authors' program.

    Args:
      names: of the checkpoint's tensors.
      stream: chooses among encoders that have a stream in their names; of others there is one.
      what: name of the file, for messages.

    Returns:
      {name in the authors' program: name in the checkpoint}; the query encoder's begin with
      ``encoder_q.``.  Tensors that are not the program's keep their name.

    Raises:
      UserError: there is no query encoder of this stream, or there are several.
    """
    found = _renamed({name: name for name in names}, unwrapped, what)
    found = _of_stream(found, stream, what)
    query = _query(found, what)
    outer = re.sub(r"[^.]*\.$", "", query)

    def canonical(name: str) -> str:
        if name.startswith(query):
            return f"encoder_q.{name.removeprefix(query)}"
        return name.removeprefix(outer)

    return _renamed(found, canonical, what)


def unwrapped(name: str) -> str:
    """The name without the parts that wrappers add, at any place."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def summary(left_out: Iterable[str], used: Iterable[str]) -> str:
    """Names the modules whose tensors are left out, each with its number of tensors."""
    inner = {part for name in used for part in _prefixes(unwrapped(name))}
    modules = Counter(
        next((part for part in _prefixes(name) if part not in inner), name)
        for name in map(unwrapped, left_out)
    )
    listed = [
        f"{shown(module)[:60]} ({count} tensors)" if count > 1 else shown(module)[:60]
        for module, count in modules.items()
    ]
    listed[_MOST_LISTED:] = [f"{len(listed) - _MOST_LISTED} more"] * (len(listed) > _MOST_LISTED)
    return ", ".join(listed)


def _prefixes(name: str) -> list[str]:
    """a, a.b, … of a.b.c, from the shortest to the name itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _renamed(names: dict[str, str], rename: Callable[[str], str], what: str) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, original in names.items():
        new = rename(name)
        if new in made:
            raise UserError(
                f"{what} holds both {ascii(made[new])[:80]} and {ascii(original)[:80]}, the same "
                "tensor of two networks: save the state_dict of one of them."
            )
        made[new] = original
    return made


def _queries(names: Iterable[str]) -> list[str]:
    """Prefixes of the encoders that are not moving averages of others."""
    prefixes = [name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)]
    return [prefix for prefix in prefixes if _AVERAGED.isdisjoint(re.split("[._]", prefix))]


def _of_stream(names: dict[str, str], stream: Stream, what: str) -> dict[str, str]:
    """The names that belong to a stream, without it; all if no encoder's name has a stream.

    Where an encoder has no stream in its name beside those that have, it is the joints'; so are
    the other tensors without a stream, except the pointer that all queues share.
    """
    streams = {_stream_of(query) for query in _queries(names)}
    if streams <= {None}:
        return names
    wanted = None if stream == "joint" and None in streams else stream
    if wanted not in streams:
        others = sorted(each or "joint" for each in streams)
        raise UserError(
            f"{what} holds encoders of the stream{'s' * (len(others) > 1)} {', '.join(others)}, "
            f"but none of {stream}: pass --stream={others[0]}."
        )
    shared = {
        name: original
        for name, original in names.items()
        if _stream_of(name) is None and (None not in streams or name.endswith("queue_ptr"))
    }
    own = {name: original for name, original in names.items() if _stream_of(name) == wanted}
    return shared | _renamed(own, lambda name: _STREAM.sub("", name, count=1).lstrip("._"), what)


def _stream_of(name: str) -> str | None:
    found = _STREAM.search(name)
    return found[1] if found else None


def _query(names: Iterable[str], what: str) -> str:
    """The prefix of the query encoder."""
    queries = _queries(names)
    queries = [query for query in queries if query.endswith("encoder_q.")] or queries
    if not queries:
        raise UserError(
            f"{what} lacks the tensor 'encoder_q.{_FIRST}', which PCM³'s networks have: pass the "
            "checkpoint of a pretraining or of a linear evaluation."
        )
    if len(queries) > 1:
        listed = ", ".join(ascii(query.rstrip(".")) for query in queries[:5])
        raise UserError(
            f"{what} holds several encoders ({listed}), none of which is PCM³'s query encoder by "
            "its name, encoder_q: save the state_dict of one of them."
        )
    return queries[0]
