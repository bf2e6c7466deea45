// Causal attention and, from the same logits, the span focus: one kernel for Hopper GPUs (sm_90a) and heads of
// 64, 96 or 128.
//
// A block takes some queries of one head: warpgroups of 64 rows, three for heads of 64 and else two, and one warp that
// loads. Keys and values come in tiles of 128 through a ring in shared memory. While the tensor cores multiply the next
// tile's queries and keys and this tile's probabilities and values, the warpgroup takes exponentials.
//
// Heads longer than 64 lie in shared memory as two halves of 64, in rows of 128 bytes each; what is beyond a head of 96
// is zero and takes part in no product.
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
// Compiled at run time; BF16 is 0 or 1, DIM is 64, 96 or 128.
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEV __device__ __forceinline__

constexpr int WARPGROUPS = DIM == 64 ? 3 : 2, ROWS = 64 * WARPGROUPS, KEYS = 128, STAGES = DIM == 64 ? 4 : 3;
constexpr int REGISTERS = DIM == 64 ? 160 : 240, LOADER_REGISTERS = DIM == 64 ? 32 : 24;  // of a thread
constexpr int HALVES = (DIM + 63) / 64, KEYS_HALF = KEYS * 128, QUERIES_HALF = 64 * 128;  // bytes
constexpr int TILE = HALVES * KEYS_HALF, QUERIES = HALVES * QUERIES_HALF;  // of keys, and of a warpgroup's queries
constexpr int KEYS_AT = WARPGROUPS * QUERIES, VALUES_AT = KEYS_AT + STAGES * TILE;
constexpr int BARRIERS_AT = VALUES_AT + STAGES * TILE, FLAG_AT = BARRIERS_AT + 8 * (1 + 4 * STAGES);
constexpr float LIMIT = 16384.f;       // of a thread's sum of p over a tile: fp16 holds it
constexpr float FAINT = 8e-28f;        // 2^-90: below it a prefix's sum has lost terms to underflow
constexpr float LN2 = 0.6931471805599453f;
constexpr int PARTS = KEYS / 16;       // warps of a query span
constexpr int AHEAD = 8;               // sums that a thread reads at once, for each of its rows
enum Pass { FAST = 0, EXACT = 1, PREFIX = 2 };

struct alignas(64) TensorMap { char bytes[128]; };

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#if BF16
#define TYPE "bf16"
#else
#define TYPE "f16"
#endif

// ------------------------------------------------------------------------------------------- instructions
DEV u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEV void barrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
DEV void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEV void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE_%=;\n"
      "bra WAIT_%=;\n"
      "DONE_%=:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// one arrival for each warp
DEV void barrier_release(u32 barrier, int lane) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.s32 p, %1, 0;\n@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(barrier),
      "r"(lane) : "memory");
}
// A box of 64 dimensions for each half, of `half` bytes; zeros beyond the head.
DEV void load(u32 to, int half, const TensorMap* map, u32 barrier, int head, int token, int sample) {
#pragma unroll
  for (int i = 0; i < HALVES; ++i)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];"
        ::"r"(to + i * half), "l"(map), "r"(64 * i), "r"(head), "r"(token), "r"(sample), "r"(barrier) : "memory");
}
DEV void block_sync() { asm volatile("barrier.sync 0;" ::: "memory"); }
DEV float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEV float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEV u32 pack(float low, float high) {
  u32 r;
  asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// The same in all lanes, said in a way that lets the compiler keep what follows from it in uniform registers.
DEV int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
// The same, but what follows from it is computed where it stands: the end of a loop takes no registers from the loop.
DEV int here(int x) { asm volatile("" : "+r"(x)); return x; }
DEV float infinity() { return __int_as_float(0x7f800000); }

// ------------------------------------------------------------------------------------------- matrix products
#define F4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define F16(x, i) F4(x, i), F4(x, i + 4), F4(x, i + 8), F4(x, i + 12)
#define F32(x) F16(x, 0), F16(x, 16)
#define F64(x) F16(x, 0), F16(x, 16), F16(x, 32), F16(x, 48)
#define W4(x, i) "=f"(x[i]), "=f"(x[i + 1]), "=f"(x[i + 2]), "=f"(x[i + 3])
#define W16(x, i) W4(x, i), W4(x, i + 4), W4(x, i + 8), W4(x, i + 12)
#define W64(x) W16(x, 0), W16(x, 16), W16(x, 32), W16(x, 48)
#define R4(x, i) "+r"(x[i]), "+r"(x[i + 1]), "+r"(x[i + 2]), "+r"(x[i + 3])
#define R32(x) R4(x, 0), R4(x, 4), R4(x, 8), R4(x, 12), R4(x, 16), R4(x, 20), R4(x, 24), R4(x, 28)
#define NAMES_32                                                                                   \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
  "%26,%27,%28,%29,%30,%31"
#define NAMES_48 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_64 NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
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

// Of a warpgroup's [64, 128] logits a thread holds 64: rows g and g + 8 of its warp's 16, columns 8 i + 2 q + {0, 1}.
constexpr int LOGITS = 64, PACKED = 32, OUTPUT = DIM / 2;

DEV void fence(float (&x)[LOGITS]) { asm volatile("wgmma.fence.sync.aligned;" : F64(x)::"memory"); }
DEV void fence(float (&o)[OUTPUT], u32 (&p)[PACKED]) {
  asm volatile("wgmma.fence.sync.aligned;" : FO(o), R32(p)::"memory");
}
DEV void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int GROUPS> DEV void wait(float (&x)[LOGITS]) {
  asm volatile("wgmma.wait_group.sync.aligned %64;" : F64(x) : "n"(GROUPS) : "memory");
}
template <int GROUPS> DEV void wait(float (&o)[OUTPUT], u32 (&p)[PACKED]) {
  asm volatile("wgmma.wait_group.sync.aligned " GROUPS_AFTER ";" : FO(o), R32(p) : "n"(GROUPS) : "memory");
}
DEV void multiply_first(float (&x)[LOGITS], u64 queries, u64 keys) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : W64(x) : "l"(queries), "l"(keys));
}
DEV void multiply(float (&x)[LOGITS], u64 queries, u64 keys) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : F64(x) : "l"(queries), "l"(keys));
}
DEV void multiply(float (&o)[OUTPUT], u32 a, u32 b, u32 c, u32 d, u64 values) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n" STRING(DIM) "k16.f32." TYPE "." TYPE " {" NAMES_O "}, "
      PACKED_AND_VALUES ", p, 1, 1, 1;\n}" : FO(o) : "r"(a), "r"(b), "r"(c), "r"(d), "l"(values));
}
// rows of 128 bytes, swizzled in groups of eight; the columns of values go on in the next half of a tile
DEV u64 descriptor(u32 address) {
  return (u64)((address & 0x3FFFF) >> 4) | ((u64)(KEYS_HALF >> 4) << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}
DEV void multiply_keys(float (&x)[LOGITS], u64 queries, u64 keys) {
  multiply_first(x, queries, keys);
#pragma unroll
  for (int i = 1; i < DIM / 16; ++i)
    multiply(x, queries + i / 4 * (QUERIES_HALF >> 4) + i % 4 * 2, keys + i / 4 * (KEYS_HALF >> 4) + i % 4 * 2);
  commit();
}
DEV void multiply_values(float (&o)[OUTPUT], u32 (&p)[PACKED], u64 values) {
#pragma unroll
  for (int i = 0; i < KEYS / 16; ++i)
    multiply(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], values + 128 * i);
  commit();
}

// ------------------------------------------------------------------------------------------- softmax
// A thread's two rows: minus the reference, its sums of p over the prefix, and log2 of the sum over the own span.
struct Rows { float m0, m1, sum0, sum1, own0, own1, scale; };

DEV float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEV float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Keys after the row, whose number within the tile is `row`, and keys before number `first`; for q = 0.
DEV void mask(float (&x)[LOGITS], int row, int first) {
#pragma unroll
  for (int i = 0; i < LOGITS; ++i) {
    const int column = (i >> 2) * 8 + (i & 1);
    if (column > row + ((i & 2) ? 8 : 0) || column < first) x[i] = -infinity();
  }
}
DEV void row_max(const float (&x)[LOGITS], float& a, float& b) {
  a = fmaxf(x[0], x[1]);
  b = fmaxf(x[2], x[3]);
#pragma unroll
  for (int i = 4; i < LOGITS; i += 4) {
    a = fmaxf(a, fmaxf(x[i], x[i + 1]));
    b = fmaxf(b, fmaxf(x[i + 2], x[i + 3]));
  }
  a = quad_max(a);
  b = quad_max(b);
}
DEV void scale_output(float (&o)[OUTPUT], float a, float b) {
#pragma unroll
  for (int i = 0; i < OUTPUT; i += 4) {
    o[i] *= a; o[i + 1] *= a;
    o[i + 2] *= b; o[i + 3] *= b;
  }
}
// x -> p, in place, and the sums of the thread's two rows
DEV void exponentials(float (&x)[LOGITS], const Rows& r, float& sum0, float& sum1) {
  float sums[4];
#pragma unroll
  for (int i = 0; i < LOGITS; i += 8) {
#pragma unroll
    for (int j = i; j < i + 8; ++j) x[j] = exp2_(fmaf(x[j], r.scale, (j & 2) ? r.m1 : r.m0));
#pragma unroll
    for (int j = i; j < i + 8; ++j) sums[j & 3] = j < 4 ? x[j] : sums[j & 3] + x[j];
  }
  sum0 = sums[0] + sums[1];
  sum1 = sums[2] + sums[3];
}
DEV void pack_all(const float (&x)[LOGITS], u32 (&p)[PACKED]) {
#pragma unroll
  for (int i = 0; i < PACKED; ++i) p[i] = pack(x[2 * i], x[2 * i + 1]);
}
// Raises the references to the maxima of a tile.
DEV void raise_to_max(const float (&x)[LOGITS], Rows& r, float (&o)[OUTPUT]) {
  float m0, m1;
  row_max(x, m0, m1);
  m0 = fminf(r.m0, -m0 * r.scale);
  m1 = fminf(r.m1, -m1 * r.scale);
  const float a = exp2_(m0 - r.m0), b = exp2_(m1 - r.m1);
  r.m0 = m0; r.m1 = m1;
  r.sum0 *= a; r.sum1 *= b;
  scale_output(o, a, b);
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

// Writes log2 of a tile's row sums, where 16 rows of a warp stand side by side.
DEV void keep(float* at, const Rows& r, float sum0, float sum1, int quad_lane) {
  sum0 = quad_sum(sum0);
  sum1 = quad_sum(sum1);
  if (quad_lane == 0) {
    at[0] = log2_(sum0) - r.m0;
    at[8] = log2_(sum1) - r.m1;
  }
}

// The key spans of a query span, from near to far: the next one's tile (-1 for none), its column, how many there are,
// and the tiles from one to another.
struct Samples { int next, column, count, stride; };

// Adds a tile of the prefix to the rows' sums, and keeps its own where it is a sampled key span.
DEV void add_to_prefix(Rows& r, float sum0, float sum1, int tile, float* kept, Samples& s, int quad_lane) {
  r.sum0 += sum0;
  r.sum1 += sum1;
  if (tile == s.next) {
    keep(kept + s.column * KEYS, r, sum0, sum1, quad_lane);
    ++s.column;
    s.next = s.column < s.count ? s.next - s.stride : -1;
  }
}

// q, k, v: maps of [B, H or Hkv, T, DIM]; out [B, T, H, DIM]; lse [B, H, T]. With `lengths` [B] the span focus, too:
// pfs [B, H, 8, query spans, key spans], sums of 16 queries each, and scratch [B, H, query spans, key spans, 128].
// `scale` multiplies q . k and log2(e); strides are in spans. Blocks of `section` heads follow one another, as many as
// have keys and values that the L2 cache holds.
extern "C" __global__ void __launch_bounds__(128 * (WARPGROUPS + 1), 1) ladm_attention(
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
  const int blocks = gridDim.x / heads, first_head = blockIdx.x / (section * blocks) * section;
  const int beside = min(section, heads - first_head), turn = blockIdx.x - first_head * blocks;
  // the longest rows start first
  const int head = first_head + turn % beside, sample = blockIdx.y, block = blocks - 1 - turn / beside;
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
          load(memory + i * QUERIES, QUERIES_HALF, &q_map, barriers, head, block_row + 64 * i, sample);
#pragma unroll 1
        for (int i = 0; i < tiles; ++i, ++n) {
          const int token = base + (i ? tiles - i : 0) * KEYS;
          const u32 keys = memory + KEYS_AT + n % STAGES * TILE, values = memory + VALUES_AT + n % STAGES * TILE;
          barrier_wait(EMPTY_KEYS(n), PHASE(n) ^ 1);
          barrier_expect(FULL_KEYS(n), TILE);
          load(keys, KEYS_HALF, &k_map, FULL_KEYS(n), kv_head, token, sample);
          barrier_wait(EMPTY_VALUES(n), PHASE(n) ^ 1);
          barrier_expect(FULL_VALUES(n), TILE);
          load(values, KEYS_HALF, &v_map, FULL_VALUES(n), kv_head, token, sample);
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
  if (lengths && start > KEYS + 4 * KEYS * key_stride && start < length) {
    const int back = (length - KEYS - start) / KEYS;
    if (back % query_stride == 0) {
      count = (start - KEYS) / (KEYS * key_stride);
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
    r.m0 = r.m1 = 1e30f;  // finite: a row may see no key of its first tile
    r.sum0 = r.sum1 = 0.f;
    r.own0 = r.own1 = -infinity();
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
        for (int i = 0; i < 4 * HALVES; ++i) part[i / 4 * (QUERIES_HALF / 16) + i % 4] = make_uint4(0, 0, 0, 0);
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
        raise_to_max(x, r, o);
        float sum0, sum1;
        exponentials(x, r, sum0, sum1);
        if (tile == own) {
          r.own0 = log2_(quad_sum(sum0)) - r.m0;
          r.own1 = log2_(quad_sum(sum1)) - r.m1;
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
      {
        float sum0, sum1;
        exponentials(x, r, sum0, sum1);
        pack_all(x, p);
        if (__any_sync(0xffffffffu, !(sum0 + sum1 <= LIMIT))) raise(x, p, o, r, sum0, sum1, flag);
        add_to_prefix(r, sum0, sum1, tile, kept, samples, quad_lane);
      }
#pragma unroll 1
      for (--tile; tile > 0; --tile, ++n) {
        barrier_wait(FULL_KEYS(n + 1), PHASE(n + 1));
        fence(x);
        multiply_keys(x, queries, STAGE_OF(keys, n + 1));
        barrier_wait(FULL_VALUES(n), PHASE(n));
        fence(o, p);
        multiply_values(o, p, STAGE_OF(values, n));
        wait<1>(x);
        barrier_release(EMPTY_KEYS(n + 1), lane);
        float sum0, sum1;
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
        add_to_prefix(r, sum0, sum1, tile, kept, samples, quad_lane);
      }
      barrier_wait(FULL_VALUES(n), PHASE(n));
      fence(o, p);
      multiply_values(o, p, STAGE_OF(values, n));
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
      __syncwarp();
#pragma unroll 1
      for (int first = 0; first < key_spans; first += 4 * AHEAD) {
        float kept0[AHEAD], kept1[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
          const int column = first + 4 * i + quad_lane;
          kept0[i] = column < count ? kept[column * KEYS] : 0.f;
          kept1[i] = column < count ? kept[column * KEYS + 8] : 0.f;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
          const int column = first + 4 * i + quad_lane;
          float focus = column < count ? exp2_(kept0[i] - prefix0) + exp2_(kept1[i] - prefix1) : 0.f;
          focus += __shfl_xor_sync(0xffffffffu, focus, 4);
          focus += __shfl_xor_sync(0xffffffffu, focus, 8);
          focus += __shfl_xor_sync(0xffffffffu, focus, 16);
          if (g == 0 && column < key_spans) focused[column] = focus;
        }
      }
    }
    if (pass != PREFIX) {
      const float total0 = sum0 + exp2_(r.own0 + r.m0), total1 = sum1 + exp2_(r.own1 + r.m1);
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
      for (int i = 0; i < 4 * HALVES; ++i) {
        const int line = i / HALVES * 4 + (lane >> 3), part = lane & 7, token = first_row + 16 * warp + line;
        const uint4 value = *(const uint4*)(stage + i % HALVES * 2048 + line * 128 + ((part ^ (line & 7)) * 16));
        u32* const to = out + (((u64)sample * tokens + token) * heads + head) * (DIM / 2) + i % HALVES * 32;
        const bool inside = DIM % 64 == 0 || i % HALVES * 64 + part * 8 < DIM;
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
    const int lowest = KEYS + 4 * KEYS * key_stride, last = length - KEYS;
    const int present = last > lowest ? (last - lowest - 1) / (KEYS * query_stride) + 1 : 0;
    const int known = present * key_spans, all = query_spans * key_spans;
    for (int part = 0; part < PARTS; ++part)
      for (int i = known + thread; i < all; i += WARPGROUPS * 128)
        pfs[((u64)(sample * heads + head) * PARTS + part) * all + i] = 0.f;
  }
}
