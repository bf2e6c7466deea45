// The span focus alone, for Hopper GPUs (sm_90a): of a layer whose output nobody needs. Spans are of 128 tokens, heads
// of 64, 96, 128 or 256.
//
// A block takes the queries of one span and one head, two warpgroups of 64 rows, and one warp that loads the keys
// before the span in tiles of 128, from near to far, through a ring in shared memory. While one warpgroup takes
// exponentials, others have the tensor cores, those of a second block among them where two have room.
//
// Tiles are laid from the document's end, so that every tile is a span. A row's reference m is its running maximum. A
// sampled tile's row sums go to `scratch` as log2(sum) + m; when the denominator is known, each warp adds up what its
// 16 queries attend to every sampled tile.
//
// Compiled at run time for DIM 64, 96, 128 and 256.
#include "hopper.cuh"

static_assert(64 * WARPGROUPS == KEYS, "a block takes the queries of a span");
constexpr int KEYS_AT = WARPGROUPS * QUERIES, BARRIERS_AT = KEYS_AT + STAGES * TILE;

#define FULL(n) (barriers + 8 * (1 + (n) % STAGES))
#define EMPTY(n) (barriers + 8 * (1 + STAGES + (n) % STAGES))
#define PHASE(n) (((n) / STAGES) & 1)

// q, k: maps of [B, H or Hkv, T, DIM]; lengths [B]; pfs [B, H, 8, query spans, key spans], sums of 16 queries each, and
// scratch [B, H, query spans, key spans, 128], where threads read what others wrote. `scale` multiplies q . k and
// log2(e); strides are in spans.
extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS + 32, BLOCKS) ladm_focus(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map, const int* __restrict__ lengths,
    float* scratch, float* __restrict__ pfs, int heads, int group, int section, float scale, int query_spans,
    int key_spans, int query_stride, int key_stride) {
  extern __shared__ char unaligned[];
  const u32 memory = (shared_address(unaligned) + 1023u) & ~1023u, barriers = memory + BARRIERS_AT;
  const int thread = threadIdx.x, warp = uniform(thread >> 5), lane = thread & 31;
  // query spans are counted from the document's end, where they see most
  const Turn turn = turn_of(blockIdx.x, query_spans, heads, section);
  const int head = turn.head, sample = blockIdx.y, place = turn.rank, length = uniform(lengths[sample]);
  const int start = length - KEYS - place * query_stride * KEYS, count = key_spans_of(start, key_stride);
  const u64 row_of_heads = (u64)sample * heads + head;
  float* const focused = pfs + (row_of_heads * PARTS * query_spans + place) * key_spans;
  const int part_stride = query_spans * key_spans;
  if (count == 0) {
    for (int i = thread; i < PARTS * key_spans; i += blockDim.x)
      focused[i / key_spans * part_stride + i % key_spans] = 0.f;
    return;
  }
  // the first tile's first key, which may lie before the document's start
  const int base = start % KEYS ? start % KEYS - KEYS : 0, tiles = (start - base) / KEYS;

  if (thread == 0) {
    barrier_init(barriers, 1);
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(FULL(i), 1);
      barrier_init(EMPTY(i), 4 * WARPGROUPS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  block_sync();

  if (warp == 4 * WARPGROUPS) {
    if (lane == 0) {
      barrier_expect(barriers, WARPGROUPS * QUERIES);
      for (int i = 0; i < WARPGROUPS; ++i)
        load(memory + i * QUERIES, QUERIES_SLICE, &q_map, barriers, head, start + 64 * i, sample);
#pragma unroll 1
      for (int n = 0; n < tiles; ++n) {
        barrier_wait(EMPTY(n), PHASE(n) ^ 1);
        barrier_expect(FULL(n), TILE);
        load(memory + KEYS_AT + n % STAGES * TILE, KEYS_SLICE, &k_map, FULL(n), head / group,
             base + (tiles - 1 - n) * KEYS, sample);
      }
    }
    return;
  }

  const int g = lane >> 2, quad_lane = lane & 3;
  const u64 queries = descriptor(memory + warp / 4 * QUERIES), keys = descriptor(memory + KEYS_AT);
  float* const kept = scratch + (row_of_heads * query_spans + place) * key_spans * KEYS + 16 * warp + g;
  Samples samples = {tiles - key_stride, 0, count, key_stride};
  Rows r;
  r.m0 = r.m1 = 1e30f;
  r.sum0 = r.sum1 = 0.f;
  r.scale = scale;
  barrier_wait(barriers, 0);
#pragma unroll 1
  for (int n = 0; n < tiles; ++n) {
    const int tile = tiles - 1 - n;
    float x[LOGITS], a, b, sum0, sum1;
    barrier_wait(FULL(n), PHASE(n));
    fence(x);
    multiply_keys(x, queries, keys + (u64)(n % STAGES * (TILE >> 4)));
    wait<0>(x);
    barrier_release(EMPTY(n), lane);
    if (tile == 0 && base < 0) mask(x, KEYS, -base - 2 * quad_lane);
    raise_to_max(x, r, a, b);
    exponentials(x, r, sum0, sum1);
    add_to_prefix(r, sum0, sum1, tile, kept, samples, quad_lane);
  }
  const float prefix0 = log2_(quad_sum(r.sum0)) - r.m0, prefix1 = log2_(quad_sum(r.sum1)) - r.m1;
  add_up(kept, prefix0, prefix1, count, focused + warp * part_stride, key_spans, g, quad_lane);
}
