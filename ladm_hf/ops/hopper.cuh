// What the kernels for Hopper GPUs (sm_90a) share: instructions, products of queries and keys, and sums of rows.
//
// Heads longer than 64 lie in shared memory in slices of 64 dimensions, in rows of 128 bytes each; what is beyond a
// head of 96 is zero and takes part in no product.
//
// Compiled at run time: BF16 is 0 or 1, DIM the length of a head, and WARPGROUPS, STAGES and BLOCKS those of `Block` in
// hopper.py.
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEV __device__ __forceinline__

constexpr int KEYS = 128;              // of a tile
constexpr int SLICES = (DIM + 63) / 64, KEYS_SLICE = KEYS * 128, QUERIES_SLICE = 64 * 128;  // bytes
constexpr int TILE = SLICES * KEYS_SLICE, QUERIES = SLICES * QUERIES_SLICE;  // of keys, and of a warpgroup's queries
constexpr int PARTS = KEYS / 16;       // warps of a query span
constexpr int MIN_KEY_SPANS = 4;       // as in ladm_hf.config
constexpr int AHEAD = 8;               // sums that a thread reads at once, for each of its rows

struct alignas(64) TensorMap { char bytes[128]; };

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
// A box of 64 dimensions for each slice, of so many bytes; zeros beyond the head.
DEV void load(u32 to, int slice_bytes, const TensorMap* map, u32 barrier, int head, int token, int sample) {
#pragma unroll
  for (int i = 0; i < SLICES; ++i)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];"
        ::"r"(to + i * slice_bytes), "l"(map), "r"(64 * i), "r"(head), "r"(token), "r"(sample), "r"(barrier)
        : "memory");
}
DEV void block_sync() { asm volatile("barrier.sync 0;" ::: "memory"); }
DEV float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEV float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// The same in all lanes, said in a way that lets the compiler keep what follows from it in uniform registers.
DEV int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
DEV float infinity() { return __int_as_float(0x7f800000); }

// ------------------------------------------------------------------------------------------- matrix products
#define F4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define F16(x, i) F4(x, i), F4(x, i + 4), F4(x, i + 8), F4(x, i + 12)
#define F64(x) F16(x, 0), F16(x, 16), F16(x, 32), F16(x, 48)
#define W4(x, i) "=f"(x[i]), "=f"(x[i + 1]), "=f"(x[i + 2]), "=f"(x[i + 3])
#define W16(x, i) W4(x, i), W4(x, i + 4), W4(x, i + 8), W4(x, i + 12)
#define W64(x) W16(x, 0), W16(x, 16), W16(x, 32), W16(x, 48)
#define NAMES_32                                                                                   \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25," \
  "%26,%27,%28,%29,%30,%31"
#define NAMES_48 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_64 NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
// Of a warpgroup's [64, 128] logits a thread holds 64: rows g and g + 8 of its warp's 16, columns 8 i + 2 q + {0, 1}.
constexpr int LOGITS = 64;

DEV void fence(float (&x)[LOGITS]) { asm volatile("wgmma.fence.sync.aligned;" : F64(x)::"memory"); }
DEV void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int GROUPS> DEV void wait(float (&x)[LOGITS]) {
  asm volatile("wgmma.wait_group.sync.aligned %64;" : F64(x) : "n"(GROUPS) : "memory");
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
// rows of 128 bytes, swizzled in groups of eight; the columns of values go on in the next slice of a tile
DEV u64 descriptor(u32 address) {
  return (u64)((address & 0x3FFFF) >> 4) | ((u64)(KEYS_SLICE >> 4) << 16) | ((u64)64 << 32) | ((u64)1 << 62);
}
DEV void multiply_keys(float (&x)[LOGITS], u64 queries, u64 keys) {
  multiply_first(x, queries, keys);
#pragma unroll
  for (int i = 1; i < DIM / 16; ++i)
    multiply(x, queries + i / 4 * (QUERIES_SLICE >> 4) + i % 4 * 2, keys + i / 4 * (KEYS_SLICE >> 4) + i % 4 * 2);
  commit();
}

// ------------------------------------------------------------------------------------------- softmax
// A thread's two rows: minus the reference, and its sums of p over the prefix.
struct Rows { float m0, m1, sum0, sum1, scale; };

DEV float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEV float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Keys after the row, whose number within the tile is `row`, and keys before number `first`; columns are those of the
// first thread of four.
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
// Raises the references to the maxima of a tile; what is in their units is then to be multiplied by a and b.
DEV void raise_to_max(const float (&x)[LOGITS], Rows& r, float& a, float& b) {
  float m0, m1;
  row_max(x, m0, m1);
  m0 = fminf(r.m0, -m0 * r.scale);
  m1 = fminf(r.m1, -m1 * r.scale);
  a = exp2_(m0 - r.m0);
  b = exp2_(m1 - r.m1);
  r.m0 = m0; r.m1 = m1;
  r.sum0 *= a; r.sum1 *= b;
}

// ------------------------------------------------------------------------------------------- span focus
// Query spans start after this token, and have so many key spans.
DEV int lowest_start(int key_stride) { return KEYS + MIN_KEY_SPANS * KEYS * key_stride; }
DEV int key_spans_of(int start, int key_stride) {
  return start > lowest_start(key_stride) ? (start - KEYS) / (KEYS * key_stride) : 0;
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

// Of a warp's 16 rows: adds up what they attend to each sampled tile, when log2 of their denominators is known.
DEV void add_up(const float* kept, float prefix0, float prefix1, int count, float* focused, int key_spans, int g,
                int quad_lane) {
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

// ------------------------------------------------------------------------------------------- order of blocks
// Blocks of `section` heads follow one another, as many as have keys and values that the L2 cache holds. Of a head's
// blocks those with the longest rows start first: `rank` 0.
struct Turn { int head, rank; };

DEV Turn turn_of(int block, int blocks_of_a_head, int heads, int section) {
  const int first = block / (section * blocks_of_a_head) * section, beside = min(section, heads - first);
  const int turn = block - first * blocks_of_a_head;
  return {first + turn % beside, turn / beside};
}
