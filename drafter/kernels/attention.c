/* Attention of a few new tokens over a cache, the contract of `flash_attn_with_kvcache`: store, then attend.

   Softmax over the chunks of a row apart, joined by their maxima and sums (flash decoding, arXiv:2311.01282). A chunk
   is 128 slots from the row's start, whatever the batch, the other queries and the threads are, and a query's numbers
   meet in one order: its output has the same bits in every batch, beside any other queries, on any number of threads.

   Scores: 16 slots are transposed, so that a register holds one pair of a key's numbers for 16 slots, and no sum over
   lanes is needed. The two halves of a 32-bit word are two bfloat16; each is a float by a shift or a mask. */
#include "bfloat16.h"

enum { CHUNK = 128, LANES = 16, TILE = 16, TOGETHER = 4, WIDEST = 256 };

typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (words){__VA_ARGS__})
#endif

/* Exchange the off-diagonal blocks of `k` rows and columns: for k = 1, 2, 4, 8 a transposition of 16 x 16. */
#define EXCHANGE(k, LOW, HIGH)                                                                                         \
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) if (!(i & k))                                             \
    {                                                                                                                  \
        words low = PICK(t[i], t[i + k], LOW), high = PICK(t[i], t[i + k], HIGH);                                      \
        t[i] = low;                                                                                                    \
        t[i + k] = high;                                                                                               \
    }
#define LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31

static inline void transpose(words *t)
{
    EXCHANGE(1, LOW1, HIGH1)
    EXCHANGE(2, LOW2, HIGH2)
    EXCHANGE(4, LOW4, HIGH4)
    EXCHANGE(8, LOW8, HIGH8)
}

static inline floats even(words pair)
{
    return (floats)(pair << 16);
}

static inline floats odd(words pair)
{
    return (floats)(pair & 0xffff0000u);
}

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The width as outputs are kept: whole vectors of pairs. */
static inline int64_t padded_of(int64_t width)
{
    return (width + 2 * LANES - 1) / (2 * LANES) * 2 * LANES;
}

/* Numbers that a tile of queries keeps of a chunk. */
static inline int64_t part_of(int64_t queries, int64_t width)
{
    return least(queries, TILE) * (padded_of(width) + 2);
}

/* Up to 16 words from `left` that are left of a head, zeros behind them. */
static inline words load(const bf16 *from, int64_t left)
{
    words found = {0};
    if (left >= LANES)
        memcpy(&found, from, sizeof found);
    else
        memcpy(&found, from, 4 * left);
    return found;
}

/* What all tasks of a call know. The queries of a group of heads are `group * count` of their one key/value head. */
struct call {
    const bf16 *query;
    const int64_t *lengths, *depths; /* depths [B, Q] and ancestors [B, Q, Q] of a tree, or none */
    const uint8_t *ancestors;
    int64_t count, heads, kv_heads, width, padded, token, causal, window;
    float scale;
};

/* scores[m][s] of `tile` queries from `first` on with the `n` keys of a chunk; rounded up to 16 slots. */
static void score(const struct call *on, int64_t b, int64_t head, int64_t first, int64_t tile, const bf16 *keys,
                  int64_t n, float (*scores)[CHUNK])
{
    const int64_t group = on->heads / on->kv_heads, half = on->width / 2, step = on->kv_heads * on->width;
    float query[TILE][WIDEST] = {{0}};
    for (int64_t m = 0; m < tile; m++) {
        int64_t at = (b * on->count + (first + m) / group) * on->token;
        const bf16 *from = on->query + at + (head * group + (first + m) % group) * on->width;
        for (int64_t d = 0; d < on->width; d++)
            query[m][d] = widen(from[d]) * on->scale;
    }
    for (int64_t s = 0; s < n; s += LANES) {
        words t[WIDEST / 2];
        for (int64_t w = 0; w < half; w += LANES) {
            for (int64_t i = 0; i < LANES; i++)
                t[w + i] = load(keys + least(s + i, n - 1) * step + 2 * w, half - w);
            transpose(t + w);
        }
        for (int64_t m = 0; m < tile; m += TOGETHER) {
            floats sum[TOGETHER] = {{0}};
            for (int64_t w = 0; w < half; w++) {
                floats left = even(t[w]), right = odd(t[w]);
#pragma GCC unroll 4
                for (int g = 0; g < TOGETHER; g++)
                    sum[g] += query[m + g][2 * w] * left + query[m + g][2 * w + 1] * right;
            }
            for (int g = 0; g < TOGETHER; g++)
                memcpy(scores[m + g] + s, sum + g, sizeof *sum);
        }
    }
}

/* Scores of query `i` in a chunk become exp(score - the largest), 0 where it does not see; their largest and sum. */
static void weigh(const struct call *on, int64_t b, int64_t i, int64_t chunk, int64_t n, float *scores, float *largest,
                  float *total)
{
    const int64_t length = on->lengths[b];
    const int32_t padded = (n + LANES - 1) / LANES * LANES;
    const int64_t *depths = on->depths ? on->depths + b * on->count : 0;
    const int64_t at = length + (depths ? depths[i] : i);
    const int64_t end = (on->causal && !depths ? at + 1 : length + on->count) - chunk;
    const int32_t from = on->window > 0 ? least(at - on->window + 1 - chunk, CHUNK) : 0, to = least(end, n);
    for (int32_t s = 0; s < padded; s++)
        scores[s] = s < from || s >= to ? -INFINITY : scores[s];
    if (depths) {
        const uint8_t *follows = on->ancestors + (b * on->count + i) * on->count;
        for (int64_t j = 0; j < on->count; j++) { /* the window is of depths, which slots of a tree are not */
            int64_t s = length + j - chunk;
            if (s >= 0 && s < n && !(follows[j] && (on->window <= 0 || length + depths[j] > at - on->window)))
                scores[s] = -INFINITY;
        }
    }
    float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
    for (int32_t s = 0; s < padded; s++)
        top = scores[s] > top ? scores[s] : top;
    if (top == -INFINITY) { /* nothing is seen: without a share, and without the NaN of inf - inf */
        memset(scores, 0, sizeof *scores * padded);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int32_t s = 0; s < padded; s++) {
            scores[s] = exponential(scores[s] - top);
            sum += scores[s];
        }
    }
    *largest = top;
    *total = sum;
}

/* out[m] = sum over the `n` slots of a chunk of weights[m][s] * values[s]. */
static void gather(const struct call *on, int64_t tile, const bf16 *values, int64_t n, float (*weights)[CHUNK],
                   float *out)
{
    const int64_t half = on->width / 2, step = on->kv_heads * on->width;
    for (int64_t m = 0; m < tile; m += TOGETHER)
        for (int64_t w = 0; w < half; w += LANES) {
            floats left[TOGETHER] = {{0}}, right[TOGETHER] = {{0}};
            for (int64_t s = 0; s < n; s++) {
                words pair = load(values + s * step + 2 * w, half - w);
#pragma GCC unroll 4
                for (int g = 0; g < TOGETHER; g++) {
                    left[g] += weights[m + g][s] * even(pair);
                    right[g] += weights[m + g][s] * odd(pair);
                }
            }
            for (int64_t g = 0; g < least(TOGETHER, tile - m); g++)
                for (int j = 0; j < LANES; j++) {
                    out[(m + g) * on->padded + 2 * (w + j)] = left[g][j];
                    out[(m + g) * on->padded + 2 * (w + j) + 1] = right[g][j];
                }
        }
}

/* Numbers of work memory of a call: for each row, key/value head, chunk and tile of 16 queries the largest score, the
   sum and the output of each query. queries: of a key/value head and row. slots: of the longest row, new ones too. */
int64_t work_of(int64_t batch, int64_t kv_heads, int64_t queries, int64_t width, int64_t slots)
{
    const int64_t tiles = (queries + TILE - 1) / TILE, chunks = (slots + CHUNK - 1) / CHUNK;
    return batch * kv_heads * chunks * tiles * part_of(queries, width);
}

/* Write key and value [B, Q, Hk, D] behind the committed slots of keys and values [B, S, Hk, D] and attend from query
   [B, Q, H, D], tokens of all three `token`, `key_token`, `value_token` numbers apart; out [B, Q, H, D].

   work: see `work_of`. longest: of the lengths. row: numbers of a row of the cache. window: 0 for none. */
void attend_cache(const bf16 *query, const bf16 *key, const bf16 *value, bf16 *keys, bf16 *values,
                  const int64_t *lengths, const int64_t *depths, const uint8_t *ancestors, bf16 *out, float *work,
                  int64_t batch, int64_t count, int64_t heads, int64_t kv_heads, int64_t width, int64_t token,
                  int64_t key_token, int64_t value_token, int64_t row, int64_t longest, int64_t causal, int64_t window,
                  float scale)
{
    const int64_t group = heads / kv_heads, queries = group * count, padded = padded_of(width);
    const int64_t tiles = (queries + TILE - 1) / TILE, most = least(queries, TILE), step = kv_heads * width;
    const int64_t chunks = (longest + count + CHUNK - 1) / CHUNK, part = part_of(queries, width);
    const struct call on = {query, lengths, depths, ancestors, count,  heads, kv_heads,
                            width, padded,  token,  causal,    window, scale};
#pragma omp parallel
    {
#pragma omp for
        for (int64_t i = 0; i < batch * count; i++) {
            int64_t to = i / count * row + (lengths[i / count] + i % count) * step;
            memcpy(keys + to, key + i * key_token, 2 * step);
            memcpy(values + to, value + i * value_token, 2 * step);
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < batch * kv_heads * chunks * tiles; task++) {
            int64_t b = task / (kv_heads * chunks * tiles), head = task / (chunks * tiles) % kv_heads;
            int64_t chunk = task / tiles % chunks * CHUNK, first = task % tiles * TILE;
            int64_t tile = least(queries - first, TILE), n = least(lengths[b] + count - chunk, CHUNK);
            int64_t at = b * row + chunk * step + head * width;
            float *mine = work + task * part, weights[TILE][CHUNK];
            if (n <= 0)
                continue;
            if (window > 0 && chunk + n <= lengths[b] + 1 - window) { /* behind every query's window */
                for (int64_t m = 0; m < tile; m++)
                    mine[m] = -INFINITY;
                continue;
            }
            score(&on, b, head, first, tile, keys + at, n, weights);
            for (int64_t m = 0; m < tile; m++)
                weigh(&on, b, (first + m) / group, chunk, n, weights[m], mine + m, mine + most + m);
            gather(&on, tile, values + at, n, weights, mine + 2 * most);
        }
#pragma omp for
        for (int64_t i = 0; i < batch * kv_heads * queries; i++) {
            int64_t b = i / (kv_heads * queries), head = i / queries % kv_heads, query = i % queries;
            int64_t used = (lengths[b] + count + CHUNK - 1) / CHUNK, m = query % TILE;
            const float *parts = work + ((b * kv_heads + head) * chunks * tiles + query / TILE) * part;
            float top = -INFINITY, sum = 0, joined[WIDEST] = {0};
            for (int64_t c = 0; c < used; c++) {
                float largest = parts[c * tiles * part + m];
                top = largest > top ? largest : top;
            }
            for (int64_t c = 0; c < used; c++) {
                const float *one = parts + c * tiles * part;
                if (one[m] == -INFINITY)
                    continue;
                float share = exponential(one[m] - top);
                sum += share * one[most + m];
                for (int64_t d = 0; d < width; d++)
                    joined[d] += share * one[2 * most + m * padded + d];
            }
            bf16 *to = out + ((b * count + query / group) * heads + head * group + query % group) * width;
            for (int64_t d = 0; d < width; d++)
                to[d] = narrow(joined[d] / sum);
        }
    }
}
