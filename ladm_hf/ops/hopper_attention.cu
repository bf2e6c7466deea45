// Causal attention and, from the same logits, the span focus: one kernel for Hopper GPUs (sm_90a) and heads of
// 64, 96 or 128.
//
// A block takes some queries of one head: warpgroups of 64 rows, three for heads of 64 and else two, and one warp that
// loads. Keys and values come in tiles of 128 through a ring in shared memory. While the tensor cores multiply the next
// tile's queries and keys and this tile's probabilities and values, the warpgroup takes exponentials.
//
// No running maximum: a row's reference m is its maximum over two tiles, the document's first (where attention sinks
// lie) and its own. After that p = 2^(x - m), and only where a sum of p grows beyond LIMIT is m raised, by a power of
// two, so that nothing is rounded twice. Should fp32 overflow in spite of it, the block runs again with a running
// maximum.
//
// Span focus, for spans of 128 tokens: tiles are laid from the document's end, so that every tile is a span. Sums over
// the query span itself are kept apart from those over the prefix before it, which is the denominator: nothing is a
// difference. A sampled tile's row sums go to `scratch` as log2(sum) + m; at the end, when the denominator is known,
// each warp adds up what its 16 queries attend to every sampled tile. Rows whose prefix holds less than fp32 can tell
// beside the reference get a pass over the prefix alone.
//
// Compiled at run time for DIM 64, 96 and 128.
#include "hopper.cuh"

constexpr int ROWS = 64 * WARPGROUPS;
constexpr int REGISTERS = DIM == 64 ? 160 : 240, LOADER_REGISTERS = DIM == 64 ? 32 : 24;  // of a thread
constexpr int KEYS_AT = WARPGROUPS * QUERIES, VALUES_AT = KEYS_AT + STAGES * TILE;
constexpr int BARRIERS_AT = VALUES_AT + STAGES * TILE, FLAG_AT = BARRIERS_AT + 8 * (1 + 4 * STAGES);
constexpr float LIMIT = 16384.f;       // of a thread's sum of p over a tile: fp16 holds it
constexpr float FAINT = 8e-28f;        // 2^-90: below it a prefix's sum has lost terms to underflow
constexpr float LN2 = 0.6931471805599453f;
constexpr int PACKED = 32, OUTPUT = DIM / 2;  // registers of a thread's probabilities and output
enum Pass { FAST = 0, EXACT = 1, PREFIX = 2 };

// The same, but what follows from it is computed where it stands: the end of a loop takes no registers from the loop.
DEV int here(int x) { asm volatile("" : "+r"(x)); return x; }
DEV u32 pack(float low, float high) {
  u32 r;
  asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// ------------------------------------------------------------------------------------------- products with values
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define F32(x) F16(x, 0), F16(x, 16)
#define R4(x, i) "+r"(x[i]), "+r"(x[i + 1]), "+r"(x[i + 2]), "+r"(x[i + 3])
#define R32(x) R4(x, 0), R4(x, 4), R4(x, 8), R4(x, 12), R4(x, 16), R4(x, 20), R4(x, 24), R4(x, 28)
// a thread's part of the output, and the operands after it
#if DIM == 64
#define FO(o) F32(o)
#define NAMES_O NAMES_32
#define PACKED_AND_VALUES "{%32,%33,%34,%35}, %36"
#define GROUPS_AFTER "%64"
#elif DIM == 96
#define FO(o) F32(o), F16(o, 32)
#define NAMES_O NAMES_48
#define PACKED_AND_VALUES "{%48,%49,%50,%51}, %52"
#define GROUPS_AFTER "%80"
#else
#define FO(o) F64(o)
#define NAMES_O NAMES_64
#define PACKED_AND_VALUES "{%64,%65,%66,%67}, %68"
#define GROUPS_AFTER "%96"
#endif

DEV void fence(float (&o)[OUTPUT], u32 (&p)[PACKED]) {
  asm volatile("wgmma.fence.sync.aligned;" : FO(o), R32(p)::"memory");
}
template <int GROUPS> DEV void wait(float (&o)[OUTPUT], u32 (&p)[PACKED]) {
  asm volatile("wgmma.wait_group.sync.aligned " GROUPS_AFTER ";" : FO(o), R32(p) : "n"(GROUPS) : "memory");
}
DEV void multiply(float (&o)[OUTPUT], u32 a, u32 b, u32 c, u32 d, u64 values) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n" STRING(DIM) "k16.f32." TYPE "." TYPE " {" NAMES_O "}, "
      PACKED_AND_VALUES ", p, 1, 1, 1;\n}" : FO(o) : "r"(a), "r"(b), "r"(c), "r"(d), "l"(values));
}
DEV void multiply_values(float (&o)[OUTPUT], u32 (&p)[PACKED], u64 values) {
#pragma unroll
  for (int i = 0; i < KEYS / 16; ++i)
    multiply(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], values + 128 * i);
  commit();
}

// ------------------------------------------------------------------------------------------- softmax
DEV void scale_output(float (&o)[OUTPUT], float a, float b) {
#pragma unroll
  for (int i = 0; i < OUTPUT; i += 4) {
    o[i] *= a; o[i + 1] *= a;
    o[i + 2] *= b; o[i + 3] *= b;
  }
}
DEV void pack_all(const float (&x)[LOGITS], u32 (&p)[PACKED]) {
#pragma unroll
  for (int i = 0; i < PACKED; ++i) p[i] = pack(x[2 * i], x[2 * i + 1]);
}
// Some row's p are large: raises its reference by a power of two.
DEV void raise(const float (&x)[LOGITS], u32 (&p)[PACKED], float (&o)[OUTPUT], Rows& r, float& sum0, float& sum1,
               u32 flag) {
  float m0, m1;
  row_max(x, m0, m1);
  if (!(sum0 + sum1 < 1e36f))  // a NaN, too
    asm volatile("atom.shared::cta.or.b32 _, [%0], %1;" ::"r"(flag), "r"((u32)EXACT) : "memory");
  const int e0 = m0 > 64.f && m0 < 1e36f ? (__float_as_int(m0) >> 23) - 127 : 0;
  const int e1 = m1 > 64.f && m1 < 1e36f ? (__float_as_int(m1) >> 23) - 127 : 0;
  const float a = __int_as_float((127 - e0) << 23), b = __int_as_float((127 - e1) << 23);
  r.m0 -= (float)e0; r.m1 -= (float)e1;
  r.sum0 *= a; r.sum1 *= b;
  sum0 *= a; sum1 *= b;
#pragma unroll
  for (int i = 0; i < PACKED; i += 2) {
    p[i] = pack(x[2 * i] * a, x[2 * i + 1] * a);
    p[i + 1] = pack(x[2 * i + 2] * b, x[2 * i + 3] * b);
  }
  scale_output(o, a, b);
}

// ------------------------------------------------------------------------------------------- ring
#define FULL_KEYS(n) (barriers + 8 * (1 + (n) % STAGES))
#define FULL_VALUES(n) (barriers + 8 * (1 + STAGES + (n) % STAGES))
#define EMPTY_KEYS(n) (barriers + 8 * (1 + 2 * STAGES + (n) % STAGES))
#define EMPTY_VALUES(n) (barriers + 8 * (1 + 3 * STAGES + (n) % STAGES))
#define PHASE(n) (((n) / STAGES) & 1)
#define STAGE_OF(first, n) ((first) + (u64)((n) % STAGES * (TILE >> 4)))

// What the block must do again, FAST for nothing. All its threads ask the same and go on together.
DEV int next_pass(int pass, int wanted) {
  if (pass == FAST && (wanted & EXACT)) return EXACT;
  return pass != PREFIX && (wanted & PREFIX) ? PREFIX : FAST;
}

// q, k, v: maps of [B, H or Hkv, T, DIM]; out [B, T, H, DIM]; lse [B, H, T]. With `lengths` [B] the span focus, too:
// pfs [B, H, 8, query spans, key spans], sums of 16 queries each, and scratch [B, H, query spans, key spans, 128].
// `scale` multiplies q . k and log2(e); strides are in spans.
extern "C" __global__ void __launch_bounds__(128 * (WARPGROUPS + 1), BLOCKS) ladm_attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map,
    const __grid_constant__ TensorMap v_map, u32* __restrict__ out, float* __restrict__ lse,
    const int* __restrict__ lengths, float* scratch, float* __restrict__ pfs, int tokens, int heads, int group,
    int section, float scale, int query_spans, int key_spans, int query_stride, int key_stride) {
  extern __shared__ char unaligned[];
  const u32 memory = (shared_address(unaligned) + 1023u) & ~1023u;
  char* const generic = unaligned + (memory - shared_address(unaligned));
  const u32 barriers = memory + BARRIERS_AT, flag = memory + FLAG_AT;
  volatile int* const flag_value = (volatile int*)(generic + FLAG_AT);
  const int thread = threadIdx.x, warpgroup = uniform(thread >> 7);
  const int blocks = gridDim.x / heads;
  const Turn turn = turn_of(blockIdx.x, blocks, heads, section);
  const int head = turn.head, sample = blockIdx.y, block = blocks - 1 - turn.rank;
  const int length = uniform(lengths ? lengths[sample] : tokens);
  // the first tile's first key: tiles end at the document's end, so it may lie before its start
  const int base = lengths && length % KEYS ? length % KEYS - KEYS : 0;
  const int block_row = base + block * ROWS;
  if (block_row >= tokens) return;
  const int tiles = (min(block_row + ROWS, tokens) - 1 - base) / KEYS + 1;

  if (thread == 0) {
    barrier_init(barriers, 1);
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(FULL_KEYS(i), 1);
      barrier_init(FULL_VALUES(i), 1);
      barrier_init(EMPTY_KEYS(i), 4 * WARPGROUPS);
      barrier_init(EMPTY_VALUES(i), 4 * WARPGROUPS);
    }
    *flag_value = 0;
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  block_sync();

  // The first tile comes first, then the others from the last: n-th of the ring -> tile.
  int pass = FAST;
  if (warpgroup == WARPGROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(LOADER_REGISTERS));
    const int kv_head = head / group;
    u32 n = 0;
#pragma unroll 1
    for (;;) {
      if (thread == WARPGROUPS * 128) {
        barrier_expect(barriers, WARPGROUPS * QUERIES);
        for (int i = 0; i < WARPGROUPS; ++i)
          load(memory + i * QUERIES, QUERIES_SLICE, &q_map, barriers, head, block_row + 64 * i, sample);
#pragma unroll 1
        for (int i = 0; i < tiles; ++i, ++n) {
          const int token = base + (i ? tiles - i : 0) * KEYS;
          const u32 keys = memory + KEYS_AT + n % STAGES * TILE, values = memory + VALUES_AT + n % STAGES * TILE;
          barrier_wait(EMPTY_KEYS(n), PHASE(n) ^ 1);
          barrier_expect(FULL_KEYS(n), TILE);
          load(keys, KEYS_SLICE, &k_map, FULL_KEYS(n), kv_head, token, sample);
          barrier_wait(EMPTY_VALUES(n), PHASE(n) ^ 1);
          barrier_expect(FULL_VALUES(n), TILE);
          load(values, KEYS_SLICE, &v_map, FULL_VALUES(n), kv_head, token, sample);
        }
      }
      __syncwarp();
      block_sync();
      pass = next_pass(pass, uniform(*flag_value));
      if (pass == FAST) break;
      block_sync();
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
  const int lane = thread & 31, warp = (thread >> 5) & 3, g = lane >> 2, quad_lane = lane & 3;
  const int first_row = block_row + 64 * warpgroup, row = first_row + 16 * warp + g;  // and row + 8
  const u64 queries = descriptor(memory + warpgroup * QUERIES);
  const u64 keys = descriptor(memory + KEYS_AT), values = descriptor(memory + VALUES_AT);
  // the tile of the rows' own span: 64 rows never lie in two
  const int own = min((first_row - base) / KEYS, tiles - 1);
  // of a query span: how many key spans it has, and where their sums go
  const int start = base + (first_row - base) / KEYS * KEYS;
  int count = 0, place = 0;
  float* kept = scratch;
  if (lengths && start < length) {
    const int back = (length - KEYS - start) / KEYS;
    if (back % query_stride == 0) {
      count = key_spans_of(start, key_stride);
      place = back / query_stride;
      const u64 row_of_spans = (u64)(sample * heads + head) * query_spans + place;
      kept += row_of_spans * key_spans * KEYS + (first_row - start) + 16 * warp + g;
    }
  }

  u32 n = 0, phase = 0;
#pragma unroll 1
  for (;;) {
    float x[LOGITS], o[OUTPUT];
    u32 p[PACKED];
    Rows r;
    float own0 = -infinity(), own1 = own0;  // log2 of the sums over the own span
    r.m0 = r.m1 = 1e30f;  // finite: a row may see no key of its first tile
    r.sum0 = r.sum1 = 0.f;
    r.scale = scale;
    Samples samples = {count ? own - key_stride : -1, 0, count, key_stride};
#pragma unroll
    for (int i = 0; i < OUTPUT; ++i) o[i] = 0.f;
    barrier_wait(barriers, phase & 1);
    if (first_row + 64 > length) {
      // Padding asks for nothing, so that no document depends on what another one's padding holds.
      const int line = (thread & 127) >> 1;
      uint4* const part = (uint4*)(generic + warpgroup * QUERIES + line * 128 + (thread & 1) * 64);
      if (first_row + line >= length)
        for (int i = 0; i < 4 * SLICES; ++i) part[i / 4 * (QUERIES_SLICE / 16) + i % 4] = make_uint4(0, 0, 0, 0);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
    }
    // With the maximum, nothing overlapped: the first tile and the own one; all tiles in another pass than the first.
    int tile = 0;
#pragma unroll 1
    for (;;) {
      const bool skipped = tile > own || (pass == PREFIX && tile == own);
      barrier_wait(FULL_KEYS(n), PHASE(n));
      if (!skipped) {
        fence(x);
        multiply_keys(x, queries, STAGE_OF(keys, n));
        wait<0>(x);
      }
      barrier_release(EMPTY_KEYS(n), lane);
      if (!skipped) {
        const int number = base + tile * KEYS + 2 * quad_lane;
        if (tile == own || tile == 0) mask(x, row - number, -number);
        float a, b, sum0, sum1;
        raise_to_max(x, r, a, b);
        scale_output(o, a, b);
        exponentials(x, r, sum0, sum1);
        if (tile == own) {
          own0 = log2_(quad_sum(sum0)) - r.m0;
          own1 = log2_(quad_sum(sum1)) - r.m1;
        } else {
          add_to_prefix(r, sum0, sum1, tile, kept, samples, quad_lane);
        }
        pack_all(x, p);
      }
      barrier_wait(FULL_VALUES(n), PHASE(n));
      if (!skipped) {
        fence(o, p);
        multiply_values(o, p, STAGE_OF(values, n));
        wait<0>(o, p);
      }
      barrier_release(EMPTY_VALUES(n), lane);
      ++n;
      const bool done = pass == FAST ? tile == own : tile == 1 || tiles == 1;
      if (done) break;
      tile = tile ? tile - 1 : tiles - 1;
    }
    if (pass == FAST && own == 0) {
      // the block's other tiles are all after this warpgroup's rows
#pragma unroll 1
      for (int i = 1; i < tiles; ++i, ++n) {
        barrier_wait(FULL_KEYS(n), PHASE(n));
        barrier_release(EMPTY_KEYS(n), lane);
        barrier_wait(FULL_VALUES(n), PHASE(n));
        barrier_release(EMPTY_VALUES(n), lane);
      }
    }
    if (pass == FAST && own > 1) {
      tile = own - 1;
      barrier_wait(FULL_KEYS(n), PHASE(n));
      fence(x);
      multiply_keys(x, queries, STAGE_OF(keys, n));
      wait<0>(x);
      barrier_release(EMPTY_KEYS(n), lane);
      float sum0, sum1;
      exponentials(x, r, sum0, sum1);
      pack_all(x, p);
      if (__any_sync(0xffffffffu, !(sum0 + sum1 <= LIMIT))) raise(x, p, o, r, sum0, sum1, flag);
#pragma unroll 1
      for (--tile; tile > 0; --tile, ++n) {
        barrier_wait(FULL_KEYS(n + 1), PHASE(n + 1));
        fence(x);
        multiply_keys(x, queries, STAGE_OF(keys, n + 1));
        barrier_wait(FULL_VALUES(n), PHASE(n));
        fence(o, p);
        multiply_values(o, p, STAGE_OF(values, n));
        // of the tile before, beside the products
        add_to_prefix(r, sum0, sum1, tile + 1, kept, samples, quad_lane);
        wait<1>(x);
        barrier_release(EMPTY_KEYS(n + 1), lane);
        exponentials(x, r, sum0, sum1);
        // The wait for the values stands in both branches, or the compiler moves it up among the exponentials.
        if (__any_sync(0xffffffffu, !(sum0 + sum1 <= LIMIT))) {
          wait<0>(o, p);
          raise(x, p, o, r, sum0, sum1, flag);
        } else {
          wait<0>(o, p);
          pack_all(x, p);
        }
        barrier_release(EMPTY_VALUES(n), lane);
      }
      barrier_wait(FULL_VALUES(n), PHASE(n));
      fence(o, p);
      multiply_values(o, p, STAGE_OF(values, n));
      add_to_prefix(r, sum0, sum1, 1, kept, samples, quad_lane);
      wait<0>(o, p);
      barrier_release(EMPTY_VALUES(n), lane);
      ++n;
    }

    // ----------------------------------------------------------------------------------------- results
    const float sum0 = quad_sum(r.sum0), sum1 = quad_sum(r.sum1);
    const int late = here(thread), quad_lane = late & 3, g = late >> 2 & 7, warp = late >> 5 & 3, lane = late & 31;
    const int row = here(first_row) + 16 * warp + g;
    if (count) {
      if (pass != PREFIX && !(sum0 > FAINT && sum1 > FAINT))
        asm volatile("atom.shared::cta.or.b32 _, [%0], %1;" ::"r"(flag), "r"((u32)PREFIX) : "memory");
      const float prefix0 = log2_(sum0) - r.m0, prefix1 = log2_(sum1) - r.m1;
      const int part = ((first_row - base) & (KEYS - 1)) / 16 + warp;
      float* const focused =
          pfs + (((u64)(sample * heads + head) * PARTS + part) * query_spans + here(place)) * key_spans;
      add_up(kept, prefix0, prefix1, count, focused, key_spans, g, quad_lane);
    }
    if (pass != PREFIX) {
      const float total0 = sum0 + exp2_(own0 + r.m0), total1 = sum1 + exp2_(own1 + r.m1);
      const float a = __frcp_rn(total0), b = __frcp_rn(total1);
      if (quad_lane == 0) {
        float* const to = lse + (u64)(sample * heads + head) * tokens;
        if (row >= 0 && row < tokens) to[row] = (log2_(total0) - r.m0) * LN2;
        if (row + 8 >= 0 && row + 8 < tokens) to[row + 8] = (log2_(total1) - r.m1) * LN2;
      }
      // through the memory of the queries, so that 16 bytes are written at once; the warpgroup is done with them
      asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
      char* const stage = generic + warpgroup * QUERIES + warp * (QUERIES / 4);
#pragma unroll
      for (int i = 0; i < DIM / 8; ++i) {
        const int at = i / 8 * 2048 + g * 128 + ((i % 8 ^ g) * 16) + quad_lane * 4;
        *(u32*)(stage + at) = pack(o[4 * i] * a, o[4 * i + 1] * a);
        *(u32*)(stage + at + 1024) = pack(o[4 * i + 2] * b, o[4 * i + 3] * b);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4 * SLICES; ++i) {
        const int line = i / SLICES * 4 + (lane >> 3), part = lane & 7, token = first_row + 16 * warp + line;
        const uint4 value = *(const uint4*)(stage + i % SLICES * 2048 + line * 128 + ((part ^ (line & 7)) * 16));
        u32* const to = out + (((u64)sample * tokens + token) * heads + head) * (DIM / 2) + i % SLICES * 32;
        const bool inside = DIM % 64 == 0 || i % SLICES * 64 + part * 8 < DIM;
        if (inside && token >= 0 && token < tokens) *(uint4*)(to + part * 4) = value;
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    ++phase;
    block_sync();
    pass = next_pass(pass, uniform(*flag_value));
    if (pass == FAST) break;
    block_sync();
  }

  // query spans that other documents of the batch have, and this one has not
  if (lengths && block == 0) {
    const int lowest = lowest_start(key_stride), last = length - KEYS;
    const int present = last > lowest ? (last - lowest - 1) / (KEYS * query_stride) + 1 : 0;
    const int known = present * key_spans, all = query_spans * key_spans;
    for (int part = 0; part < PARTS; ++part)
      for (int i = known + thread; i < all; i += WARPGROUPS * 128)
        pfs[((u64)(sample * heads + head) * PARTS + part) * all + i] = 0.f;
  }
}
