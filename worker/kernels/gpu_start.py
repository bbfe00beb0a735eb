"""A row's first factors in Triton: the counter hash of `reference.initialize`, two numbers from each 64 bits."""

from factorstream.worker.kernels.gpu_language import inner, jit, tl

BLOCK = tl.constexpr(256)


@inner
def splitmix64(counter):
    """Return 64 random bits for each *counter*."""
    bits = counter + 0x9E3779B97F4A7C15
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    return bits ^ (bits >> 31)


@jit
def fill(factors, biases, start, first, n_places, rank, deviation, WIDTH: tl.constexpr):
    """Fill rows of WIDTH places, the first of which is row *first*; *start* points at the 64 bits of seed and stream."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = place % rank
    key = splitmix64(tl.load(start).to(tl.uint64, bitcast=True) ^ (place // rank + first).to(tl.uint64))
    bits = splitmix64(key + (k // 2).to(tl.uint64))
    uniform = ((bits >> 32).to(tl.float64) + 1.0) / 4294967296.0
    angle = 6.283185307179586 * (bits & 0xFFFFFFFF).to(tl.float64) / 4294967296.0
    radius = deviation * tl.sqrt(-2.0 * tl.log(uniform))
    value = radius * tl.where(k % 2 == 0, tl.cos(angle), tl.sin(angle))
    inside = place < n_places
    tl.store(factors + place // rank * WIDTH + k, value.to(tl.float32), mask=inside)
    tl.store(biases + place // rank, 0.0, mask=inside & (k == 0))
