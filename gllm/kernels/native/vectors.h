/* The vector of this CPU in GCC's and Clang's portable form, and the few functions over it.
 *
 * One source serves AVX-512, AVX2 and NEON: it is compiled for the machine that it runs on. Knows nothing
 * of models or of how work is shared among threads.
 */
#ifndef GLLM_VECTORS_H
#define GLLM_VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* A matrix unit (AMX) that may be used once the system permits it. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__linux__)
#define HAS_TILES
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t ushorts __attribute__((vector_size(2 * LANES)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES)));

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* The nearest of 16 bits, of two as near the even one; what is no number stays none. */
INLINE uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

INLINE vec all(float x) { return x - (vec){0}; }

/* Halves are folded onto each other, in an order that the compiler may not change. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FOLDS
#endif
#endif
#if defined(FOLDS) && LANES == 16
#define FOLD(x, n) __builtin_shufflevector(x, x, (0 + n) % 16, (1 + n) % 16, (2 + n) % 16, (3 + n) % 16, (4 + n) % 16, (5 + n) % 16, \
    (6 + n) % 16, (7 + n) % 16, (8 + n) % 16, (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, (12 + n) % 16, (13 + n) % 16, \
    (14 + n) % 16, (15 + n) % 16)
#elif defined(FOLDS) && LANES == 8
#define FOLD(x, n) __builtin_shufflevector(x, x, (0 + n) % 8, (1 + n) % 8, (2 + n) % 8, (3 + n) % 8, (4 + n) % 8, (5 + n) % 8, \
    (6 + n) % 8, (7 + n) % 8)
#else
INLINE vec turned(vec x, int n) {
    vec y;
    for (int i = 0; i < LANES; i++) y[i] = x[(i + n) % LANES];
    return y;
}
#define FOLD(x, n) turned(x, n)
#endif

INLINE float sum(vec x) {
#if LANES == 16
    x += FOLD(x, 8);
#endif
#if LANES >= 8
    x += FOLD(x, 4);
#endif
    x += FOLD(x, 2);
    return x[0] + x[1];
}

/* Sums of neighbours: first those of x, then those of y. Of LANES vectors, each step halves the number, until one
 * holds the sums of all. */
#if defined(FOLDS) && LANES == 16
#define EVERY_SECOND(x, y, n) __builtin_shufflevector(x, y, n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14, n + 16, n + 18, \
    n + 20, n + 22, n + 24, n + 26, n + 28, n + 30)
#elif defined(FOLDS) && LANES == 8
#define EVERY_SECOND(x, y, n) __builtin_shufflevector(x, y, n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14)
#else
INLINE vec every_second(vec x, vec y, int n) {
    vec z;
    for (int i = 0; i < LANES; i++) z[i] = 2 * i < LANES ? x[2 * i + n] : y[2 * i + n - LANES];
    return z;
}
#define EVERY_SECOND(x, y, n) every_second(x, y, n)
#endif

INLINE vec pairs(vec x, vec y) { return EVERY_SECOND(x, y, 0) + EVERY_SECOND(x, y, 1); }

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

INLINE float largest(vec x) {
#if LANES == 16
    x = larger(x, FOLD(x, 8));
#endif
#if LANES >= 8
    x = larger(x, FOLD(x, 4));
#endif
    x = larger(x, FOLD(x, 2));
    return x[0] > x[1] ? x[0] : x[1];
}

/* exp(x) to 2 units in the last place for x in [-87, 88]; below that 0, above it the value at 88.
 * x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial for exp(r) (Cephes), n goes into the exponent. */
INLINE vec exponential(vec x) {
    const ivec below = x < -87.0f;
    x = choose(x > 88.0f, all(88.0f), x);
    x = choose(below, all(-87.0f), x);
    const vec shift = all(12582912.0f); /* 1.5 * 2**23: adding it rounds to an integer */
    const vec n = (x * 1.44269504088896341f + shift) - shift;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
    return choose(below, all(0.0f), p * (vec)exponent);
}

#endif
