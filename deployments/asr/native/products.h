/* Products of a weight with the rows of a few tokens.
 *
 * Weights lie in the order in which they are read, as (outputs / TILE, inputs / FED, TILE, FED), with FED8 in the place of FED
 * where they are int8: a processor fetches one
 * stream ahead much better than many. Each lane of a register sums one output, and takes FED inputs at a time, which is what
 * the processor's instructions multiply. Where weights are int8, inputs are rounded to 8 bits too, each row with a scale of
 * its own.
 */
#pragma once

#include <omp.h>

#include "arithmetic.h"

enum {
    TILE = 32, /* outputs, and */
    GROUP = 8, /* rows, that are computed at a time: their sums stay in registers */
    SHARE = 2  /* tiles that a thread takes at a time */
};

typedef struct {
    const void *tiles;    /* bfloat16, or int8 where there are scales */
    const float *scales;  /* (outputs,) or NULL */
    const float *offsets; /* (outputs,) what the 128 that makes inputs unsigned adds to each: 128 * scale * sum of weights */
} Weight;

/* Inputs of a product, as its weight takes them. */
typedef struct {
    const void *numbers;     /* (rows, size) bfloat16, or unsigned 8 bits where there are scales */
    const float *row_scales; /* (rows,) or NULL */
    int64_t size;
} Inputs;

/* TILE outputs of `rows` rows. Inlined for each number of rows, so that all sums stay in registers. */
static inline __attribute__((always_inline)) void tile_of(
    const bf16 *weight, const bf16 *inputs, int64_t size, int rows, float to[GROUP][TILE]) {
    __m512 low[GROUP], high[GROUP]; /* halves of the tile */
    for (int row = 0; row < rows; row++) low[row] = high[row] = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += FED) {
        __m512i low_weights = load(weight + TILE * i), high_weights = load(weight + TILE * i + FED * LANES);
        for (int row = 0; row < rows; row++) {
            __m512i input = repeat(inputs + row * size + i);
            low[row] = add_products(low[row], low_weights, input);
            high[row] = add_products(high[row], high_weights, input);
        }
    }
    for (int row = 0; row < rows; row++) {
        _mm512_storeu_ps(to[row], low[row]);
        _mm512_storeu_ps(to[row] + LANES, high[row]);
    }
}

/* The same of 8-bit numbers, before any scale. */
static inline __attribute__((always_inline)) void tile8_of(
    const int8_t *weight, const uint8_t *inputs, int64_t size, int rows, float to[GROUP][TILE]) {
    __m512i low[GROUP], high[GROUP];
    for (int row = 0; row < rows; row++) low[row] = high[row] = _mm512_setzero_si512();
    for (int64_t i = 0; i < size; i += FED8) {
        __m512i low_weights = load(weight + TILE * i), high_weights = load(weight + TILE * i + FED8 * LANES);
        for (int row = 0; row < rows; row++) {
            __m512i input = repeat(inputs + row * size + i);
            low[row] = _mm512_dpbusd_epi32(low[row], input, low_weights);
            high[row] = _mm512_dpbusd_epi32(high[row], input, high_weights);
        }
    }
    for (int row = 0; row < rows; row++) {
        _mm512_storeu_ps(to[row], _mm512_cvtepi32_ps(low[row]));
        _mm512_storeu_ps(to[row] + LANES, _mm512_cvtepi32_ps(high[row]));
    }
}

/* Of rows, or of registers that a head fills. */
#define FOR_EACH_NUMBER(tile, weight, inputs, size, rows, to) \
    switch (rows) {                                            \
        case 1: tile(weight, inputs, size, 1, to); break;      \
        case 2: tile(weight, inputs, size, 2, to); break;      \
        case 3: tile(weight, inputs, size, 3, to); break;      \
        case 4: tile(weight, inputs, size, 4, to); break;      \
        case 5: tile(weight, inputs, size, 5, to); break;      \
        case 6: tile(weight, inputs, size, 6, to); break;      \
        case 7: tile(weight, inputs, size, 7, to); break;      \
        default: tile(weight, inputs, size, GROUP, to);        \
    }

static void multiply_tile_of(const bf16 *weight, const bf16 *inputs, int64_t size, int64_t rows, float to[GROUP][TILE]) {
    FOR_EACH_NUMBER(tile_of, weight, inputs, size, rows, to)
}

/* The outputs from `output` on, TILE of them, for `rows` rows from `first` on. */
static void multiply_tile(Weight weight, Inputs inputs, int64_t output, int64_t first, int64_t rows, float to[GROUP][TILE]) {
    int64_t size = inputs.size;
    if (weight.scales == NULL) {
        const bf16 *numbers = (const bf16 *)inputs.numbers + first * size;
        multiply_tile_of((const bf16 *)weight.tiles + output * size, numbers, size, rows, to);
        return;
    }
    const int8_t *tiles = (const int8_t *)weight.tiles + output * size;
    const uint8_t *numbers = (const uint8_t *)inputs.numbers + first * size;
    FOR_EACH_NUMBER(tile8_of, tiles, numbers, size, rows, to)
    const float *scales = weight.scales + output, *offsets = weight.offsets + output, *row_scales = inputs.row_scales + first;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < TILE; i++) to[row][i] = row_scales[row] * (to[row][i] * scales[i] - offsets[i]);
}

static inline int64_t group_of(int64_t first, int64_t rows) { return rows - first < GROUP ? rows - first : GROUP; }

/* Rows that a thread prepares for a product: of a few all, by itself, which is faster than to wait for another; of many its
 * part, and then it waits. What it writes has room for all: its own where they are few, the first thread's where many. */
typedef struct {
    int64_t first, end, room;
    int waits;
} Part;

static inline Part part_of(int64_t rows) {
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    if (rows <= GROUP || threads == 1) return (Part){0, rows, thread, 0};
    return (Part){rows * thread / threads, rows * (thread + 1) / threads, 0, 1};
}

static inline void wait_for(Part part) {
    if (part.waits) {
#pragma omp barrier
    }
}

/* One row to unsigned 8 bits, 128 more than they are. Returns its scale; NaN where a number is not finite. */
static float round_row(const bf16 *numbers, int64_t size, uint8_t *to) {
    __m512 largest = _mm512_set1_ps(1e-8f), nothing = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += LANES) {
        __m512 magnitudes = _mm512_abs_ps(load_wide(numbers + i));
        largest = _mm512_max_ps(largest, magnitudes);
        nothing = _mm512_fmadd_ps(magnitudes, _mm512_setzero_ps(), nothing); /* NaN of what is not finite */
    }
    float scale = _mm512_reduce_max_ps(largest) / 127 + _mm512_reduce_add_ps(nothing);
    if (scale != scale) {
        memset(to, 128, size);
        return scale;
    }
    __m512 steps = _mm512_set1_ps(1 / scale);
    for (int64_t i = 0; i < size; i += LANES) {
        __m512i rounded = _mm512_cvtps_epi32(load_wide(numbers + i) * steps);
        _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(rounded, _mm512_set1_epi32(128))));
    }
    return scale;
}

/* Room: (threads, rows, size) and (threads, rows), or of one thread where rows are many. */
static Inputs inputs_for(Weight weight, const bf16 *numbers, int64_t rows, int64_t size, uint8_t *rounded, float *row_scales) {
    if (weight.scales == NULL) return (Inputs){numbers, NULL, size};
    Part part = part_of(rows);
    rounded += part.room * rows * size;
    row_scales += part.room * rows;
    for (int64_t row = part.first; row < part.end; row++)
        row_scales[row] = round_row(numbers + row * size, size, rounded + row * size);
    wait_for(part);
    return (Inputs){rounded, row_scales, size};
}

/* To (rows, outputs), or added to what is there. All threads call it and share the outputs; none leaves before all have. */
static void multiply(Weight weight, Inputs inputs, int64_t outputs, int64_t rows, float *to, int add) {
#pragma omp for schedule(dynamic, SHARE)
    for (int64_t output = 0; output < outputs; output += TILE)
        for (int64_t first = 0; first < rows; first += GROUP) {
            float sums[GROUP][TILE];
            int64_t count = group_of(first, rows);
            multiply_tile(weight, inputs, output, first, count, sums);
            for (int64_t row = 0; row < count; row++) {
                float *at = to + (first + row) * outputs + output;
                for (int64_t i = 0; i < TILE; i++) at[i] = add ? at[i] + sums[row][i] : sums[row][i];
            }
        }
}

/* silu(gates) * values of a feed-forward part, gates and values multiplied side by side. */
static void multiply_gated(Weight weight, Inputs inputs, int64_t outputs, int64_t rows, bf16 *gated) {
#pragma omp for schedule(dynamic, SHARE)
    for (int64_t output = 0; output < outputs; output += TILE)
        for (int64_t first = 0; first < rows; first += GROUP) {
            float gates[GROUP][TILE], values[GROUP][TILE];
            int64_t count = group_of(first, rows);
            multiply_tile(weight, inputs, output, first, count, gates);
            multiply_tile(weight, inputs, outputs + output, first, count, values);
            for (int64_t row = 0; row < count; row++) {
                bf16 *to = gated + (first + row) * outputs + output;
                for (int64_t i = 0; i < TILE; i += LANES)
                    store_narrow(to + i, silu(_mm512_loadu_ps(gates[row] + i)) * _mm512_loadu_ps(values[row] + i));
            }
        }
}
