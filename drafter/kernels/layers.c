/* What lies between the products of a decoder layer, in the order and the rounding of transformers' own layers. */
#include "bfloat16.h"

enum { MANY = 16384 }; /* numbers of a call for which waking other threads pays */

/* out = gain * x / rms(x) of `width` numbers; rounded once, as torch does, or before the gain, too, as LlamaRMSNorm. */
static inline void norm(const bf16 *x, const bf16 *gain, bf16 *out, int64_t width, float epsilon, int64_t once)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < width; d++)
        sum += widen(x[d]) * widen(x[d]);
    const float factor = 1.0f / sqrtf(sum / width + epsilon);
    for (int64_t d = 0; d < width; d++) {
        float y = widen(x[d]) * factor;
        out[d] = narrow(widen(gain[d]) * (once ? y : rounded(y)));
    }
}

/* total = hidden + added, out = norm(total); rows of `width`. Without `added`, total is not written. */
void add_norm(const bf16 *hidden, const bf16 *added, const bf16 *gain, bf16 *total, bf16 *out, int64_t rows,
              int64_t width, float epsilon, int64_t once)
{
#pragma omp parallel for if (rows * width > MANY)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *x = hidden + r * width;
        if (added) {
            for (int64_t d = 0; d < width; d++)
                total[r * width + d] = narrow(widen(x[d]) + widen(added[r * width + d]));
            x = total + r * width;
        }
        norm(x, gain, out + r * width, width, epsilon, once);
    }
}

/* In place, the rotary embedding of the first `queries` + `keys` heads of each token, `step` numbers apart:
   x * cos + y * sin, where y is x with its halves exchanged and sin [width] has the sign of that. With gains [width],
   each head is normed first. */
void rotate(bf16 *heads, const bf16 *cosine, const bf16 *sine, const bf16 *query_gain, const bf16 *key_gain,
            int64_t tokens, int64_t queries, int64_t keys, int64_t width, int64_t step, float epsilon)
{
    const int64_t half = width / 2;
#pragma omp parallel for if (tokens * step > MANY)
    for (int64_t t = 0; t < tokens; t++) {
        const bf16 *c = cosine + t * width, *s = sine + t * width;
        for (int64_t h = 0; h < queries + keys; h++) {
            bf16 *x = heads + t * step + h * width;
            if (query_gain)
                norm(x, h < queries ? query_gain : key_gain, x, width, epsilon, 0);
            for (int64_t d = 0; d < half; d++) {
                float a = widen(x[d]), b = widen(x[d + half]);
                x[d] = narrow(rounded(a * widen(c[d])) + rounded(b * widen(s[d])));
                x[d + half] = narrow(rounded(b * widen(c[d + half])) + rounded(a * widen(s[d + half])));
            }
        }
    }
}

/* out [rows, width] = silu(gate) * up of rows gate, up side by side. */
void gate(const bf16 *both, bf16 *out, int64_t rows, int64_t width)
{
#pragma omp parallel for if (rows * width > MANY)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < width; d++) {
            float x = widen(both[2 * r * width + d]);
            out[r * width + d] = narrow(rounded(x / (1.0f + exponential(-x))) * widen(both[(2 * r + 1) * width + d]));
        }
}
