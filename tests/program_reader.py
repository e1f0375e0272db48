"""A second reader of compiled programs, which shares no code with `t5x_like.parallel.compiled`.

It looks at lines and regular expressions alone: how often each part of the schedule runs, the compiler's cycles, and
what synchronous collectives move. What it makes of a program is compared with preflight's figures.
"""

import collections
import re

WIDTHS = {"pred": 8, "bf16": 16, "f16": 16, "s8": 8, "u8": 8, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all"
ARRAY = re.compile(r"\b(" + "|".join(WIDTHS) + r")\[([\d,]*)\]")


def parts_of(text):
    """Lines by the name of their computation, and the name of the entry."""
    parts, entry, name = {}, None, None
    for line in text.splitlines():
        if (start := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)) and not line.startswith(" "):
            name = start[2]
            parts[name] = []
            entry = name if start[1] else entry
        elif line == "}":
            name = None
        elif name is not None:
            parts[name].append(line)
    return parts, entry


def turns(parts, line):
    """How often the body of a `while` runs: as the compiler notes, or up to the bound in its condition."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
        return int(noted[1])
    condition = parts[re.search(r"condition=%?([\w.\-]+)", line)[1]]
    bounds = [int(n) for other in condition for n in re.findall(r"constant\((\d+)\)", other)]
    return max(bounds, default=1)


def schedule(text):
    """Each scheduled line with how often it runs; the computations of the text beside it."""
    parts, entry = parts_of(text)
    runs, waiting = collections.Counter({entry: 1}), [entry]
    found = []
    while waiting:
        name = waiting.pop()
        for line in parts[name]:
            found.append((runs[name], line))
            if " while(" in line:
                called, times = re.findall(r"body=%?([\w.\-]+)", line), turns(parts, line)
            elif " conditional(" in line:
                branches = re.search(r"branch_computations=\{([^}]*)\}", line)
                called = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
                called += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
                called, times = [branch for branch in called if not re.search(r"seldom[/)]", "".join(parts[branch]))], 1
            elif re.search(r" (call|async-start)\(", line):
                called, times = re.findall(r"(?:to_apply|calls)=%?([\w.\-]+)", line), 1
            else:
                continue
            for part in called:
                runs[part] += runs[name] * times
                waiting.append(part)
    return found, parts


def cycles(text):
    """The compiler's cycles of the tensor core for one step."""
    found, _ = schedule(text)
    return sum(times * int(n) for times, line in found for n in re.findall(r'"estimated_cycles":"(\d+)"', line)[:1])


def size(shape):
    """Bytes of the arrays of a shape as text."""
    total = 0
    for dtype, dims in ARRAY.findall(shape):
        count = 1
        for side in filter(None, dims.split(",")):
            count *= int(side)
        total += count * WIDTHS[dtype] // 8
    return total


def group_of(line, devices):
    """The devices of one group of a collective."""
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if mesh := re.search(r"replica_groups=(?:@\w+|mesh\[([^\]]*)\])\s*,?\s*\{([^{}]*)\}", line):
        sizes = dict(re.findall(r"['\"]?(\w+)['\"]?=(\d+)", mesh[1] or ""))
        group = 1
        for axis, _, part in re.findall(r"['\"](\w+)['\"](?::\((\d+)\)(\d+))?", mesh[2]):
            group *= int(part or sizes[axis])
        return group
    return devices


def synchronous_wire_bytes(text, devices):
    """Bytes that a device sends in synchronous collectives of a step, by kind, on rings; exchanges of two left out."""
    found, parts = schedule(text)
    totals = collections.Counter()
    for times, line in found:
        inside = [line]
        scattered = False
        if fused := re.search(r" fusion\(.*calls=%?([\w.\-]+)", line):
            inside = parts[fused[1]]
            whole = "\n".join(inside)
            if "chain_id" in whole or "AsyncCollective" in whole:
                continue  # woven into the work that hides it
            scattered = "scatter" in line.split("=")[0] or " dynamic-slice(" in whole
        for each in inside:
            if not (kind := re.search(rf"= (.*?) ({KINDS})\(([^)]*)\)", each)):
                continue
            group = group_of(each, devices)
            given = (
                kind[1] if kind[2] == "all-gather" else operands(inside if fused else [x for _, x in found], kind[3])
            )
            name = "reduce-scatter" if scattered and kind[2] == "all-reduce" else kind[2]
            factor = (2 if name == "all-reduce" else 1) * (group - 1) / group
            totals[name] += times * factor * size(given)
    return totals


def operands(lines, names):
    """The shapes of operands, which stand where they are made."""
    wanted = set(re.findall(r"%([\w.\-]+)", names))
    shapes = [re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ", line) for line in lines]
    return " ".join(shape[2] for shape in shapes if shape and shape[1] in wanted)
