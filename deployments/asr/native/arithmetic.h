/* Numbers of bfloat16 and float32, LANES of them at a time, which is what a register of AVX-512 holds of the latter. */
#pragma once

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int32_t integers __attribute__((vector_size(64))); /* a register of them */

enum {
    LANES = 16,
    FED = 2, /* numbers of bfloat16 that a lane multiplies at a time, */
    FED8 = 4 /* of 8 bits */
};

static inline __m512 load_wide(const bf16 *numbers) {
    __m256i narrow = _mm256_loadu_si256((const __m256i *)numbers);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

static inline void store_narrow(bf16 *to, __m512 numbers) { /* to the nearest, of two the even one */
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(numbers));
}

static inline __m512i load(const void *numbers) { return _mm512_loadu_si512(numbers); }

static inline __m512i load_some(const bf16 *numbers, int64_t count) { /* zeros after `count` numbers */
    return _mm512_maskz_loadu_epi16(count < 2 * LANES ? ((__mmask32)1 << count) - 1 : (__mmask32)-1, numbers);
}

static inline __m512i repeat(const void *four_bytes) {
    int32_t bits;
    memcpy(&bits, four_bytes, sizeof bits);
    return _mm512_set1_epi32(bits);
}

static inline __m512 add_products(__m512 sums, __m512i some, __m512i others) {
    return _mm512_dpbf16_ps(sums, (__m512bh)some, (__m512bh)others);
}

/* Of 8-bit numbers, the first ones unsigned. */
static inline integers add_products8(integers sums, __m512i some, __m512i others) {
    return (integers)_mm512_dpbusd_epi32((__m512i)sums, some, others);
}

/* e to the power of each, to 2 units in the last place: 2 to a whole power, times a polynomial of what is left. */
static inline __m512 exponential(__m512 powers) {
    powers = _mm512_max_ps(_mm512_set1_ps(-110), _mm512_min_ps(_mm512_set1_ps(110), powers)); /* NaN, the second, stays */
    __m512 whole = _mm512_roundscale_ps(powers * _mm512_set1_ps(1.44269504f), _MM_FROUND_TO_NEAREST_INT);
    __m512 left = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693145752f), powers); /* ln 2 in two parts, the first exact */
    left = _mm512_fnmadd_ps(whole, _mm512_set1_ps(1.42860677e-6f), left);
    const float taylor[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    __m512 sum = _mm512_set1_ps(taylor[0]);
    for (int term = 1; term < 7; term++) sum = _mm512_fmadd_ps(sum, left, _mm512_set1_ps(taylor[term]));
    return _mm512_scalef_ps(sum, whole);
}

static inline __m512 silu(__m512 numbers) { return numbers / (1 + exponential(-numbers)); }

/* GELU, by Abramowitz and Stegun's approximation 7.1.26 of the error function, right to 0.0000002. */
static inline __m512 gelu(__m512 numbers) {
    __m512 size = _mm512_abs_ps(numbers) * _mm512_set1_ps(0.70710678f), part = 1 / (1 + 0.3275911f * size);
    const float terms[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
    __m512 sum = _mm512_set1_ps(terms[0]);
    for (int term = 1; term < 5; term++) sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(terms[term]));
    __m512 tail = sum * part * exponential(-size * size); /* 1 - erf(size) */
    __m512 share = _mm512_mask_sub_ps(tail, _mm512_cmp_ps_mask(numbers, _mm512_setzero_ps(), _CMP_GE_OQ), _mm512_set1_ps(2), tail);
    return 0.5f * numbers * share;
}

/* What numbers are multiplied by to have a mean square of 1. */
static inline float norm_factor(const float *numbers, int64_t size, float epsilon) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += LANES) {
        __m512 some = _mm512_loadu_ps(numbers + i);
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    return 1 / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + epsilon);
}

static inline void normalise(const float *numbers, const bf16 *weight, float epsilon, int64_t size, bf16 *to) {
    __m512 factor = _mm512_set1_ps(norm_factor(numbers, size, epsilon));
    for (int64_t i = 0; i < size; i += LANES)
        store_narrow(to + i, _mm512_loadu_ps(numbers + i) * factor * load_wide(weight + i));
}
