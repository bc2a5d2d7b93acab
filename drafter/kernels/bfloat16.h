/* bfloat16 as the upper half of a float, vectors of both, and exp: whole loops of these become vector instructions. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float widen(bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest, ties to even, as torch rounds; a NaN stays one. */
static inline bf16 narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bf16 near = (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    return x != x ? 0x7fc0 : near;
}

static inline float rounded(float x)
{
    return widen(narrow(x));
}

/* exp(x) to about one part in 2^23: 2^n times a polynomial in what is left (Cephes' expf); 0 below -87, infinite where
   a float is. */
static inline float exponential(float x)
{
    float within = x < -87.0f ? -87.0f : x > 88.72f ? 88.72f : x;
    float n = within * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the low bits are the rounded number */
    int32_t power;
    memcpy(&power, &n, sizeof power);
    n -= 12582912.0f;
    float r = within - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    bits += (uint32_t)power << 23;
    memcpy(&y, &bits, sizeof y);
    return x < -87.0f ? 0.0f : x > 88.72f ? INFINITY : x != x ? x : y;
}
