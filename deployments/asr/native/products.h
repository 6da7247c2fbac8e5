/* Products of a weight with rows of numbers: with a few, where they are as fast as memory, and with many.
 *
 * Weights lie in the order in which they are read, as (outputs / TILE, inputs / FED, TILE, FED), with FED8 in the place of FED
 * where they are int8: a processor fetches one stream ahead much better than many. Each lane of a register sums one output,
 * and takes FED inputs at a time, which is what the processor's instructions multiply. Rows lie in groups of GROUP, those of a
 * group side by side, a line of LINE numbers of each after the other. Where weights are int8, inputs are rounded to 8 bits
 * too, each row with a scale of its own.
 *
 * What becomes of a row is the same whoever shares the product: its sums are taken in the same order.
 */
#pragma once

#include <omp.h>

#include "arithmetic.h"

enum {
    TILE = 32,    /* outputs, and */
    GROUP = 12,   /* rows, that are computed at a time: their sums fill the registers */
    LINE = 8,     /* numbers of a row that lie together, */
    LINE8 = 16,   /* of 8 bits */
    SHARE = 2,    /* tiles that a thread takes at a time */
    AHEAD = 8192, /* bytes of a weight that are asked for before they are needed */
};

typedef struct {
    const void *tiles;    /* bfloat16, or int8 where there are scales */
    const float *scales;  /* (outputs,) or NULL */
    const float *offsets; /* (outputs,) what the 128 that makes inputs unsigned adds to each: 128 * scale * sum of weights */
    const float *biases;  /* (outputs,) or NULL */
} Weight;

/* Inputs of a product, as its weight takes them. */
typedef struct {
    const void *numbers;     /* groups of rows, the last one may have fewer: (size / LINE, rows, LINE) bfloat16 each, or unsigned
                              * 8 bits where there are scales */
    const float *row_scales; /* (rows,) or NULL */
    int64_t size;            /* a multiple of LINE, or where there are scales of LINE8 */
} Inputs;

static inline int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

/* Rows of a group, where there are so many: as few groups as can be, and as even as those can be. */
static inline int64_t group_of(int64_t rows) {
    int64_t groups = (rows + GROUP - 1) / GROUP;
    return (rows + groups - 1) / groups;
}

static inline int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

/* Memory that is asked for while a tile is computed: two lines of the cache, of which so many bytes are new, for each two that
 * the tile loads itself. */
typedef struct {
    const char *bytes;
    int64_t pace;
} Ahead;

static inline __attribute__((always_inline)) void ask_for(Ahead *ahead) {
    _mm_prefetch(ahead->bytes, _MM_HINT_T1);
    _mm_prefetch(ahead->bytes + 64, _MM_HINT_T1);
    ahead->bytes += ahead->pace;
}

/* TILE outputs of a group of `rows` rows. Inlined for each number of rows, so that all sums stay in registers. */
static inline __attribute__((always_inline)) void tile_of(
    const bf16 *weight, const bf16 *inputs, int64_t size, int rows, Ahead ahead, float to[GROUP][TILE]) {
    __m512 low[GROUP], high[GROUP]; /* halves of the tile */
    const bf16 *end = weight + TILE * size;
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++) low[row] = high[row] = _mm512_setzero_ps();
    do { /* a loop that may not run at all has its sums copied about */
#pragma GCC unroll 4
        for (int64_t i = 0; i < LINE; i += FED) {
            __m512i low_weights = load(weight), high_weights = load(weight + FED * LANES);
            ask_for(&ahead);
#pragma GCC unroll 16
            for (int row = 0; row < rows; row++) {
                __m512i input = repeat(inputs + row * LINE + i);
                low[row] = add_products(low[row], low_weights, input);
                high[row] = add_products(high[row], high_weights, input);
            }
            weight += TILE * FED;
        }
        inputs += rows * LINE;
    } while (weight < end);
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++) {
        _mm512_storeu_ps(to[row], low[row]);
        _mm512_storeu_ps(to[row] + LANES, high[row]);
    }
}

/* The same of 8-bit numbers, before any scale. */
static inline __attribute__((always_inline)) void tile8_of(
    const int8_t *weight, const uint8_t *inputs, int64_t size, int rows, Ahead ahead, float to[GROUP][TILE]) {
    integers low[GROUP], high[GROUP]; /* halves of the tile */
    const int8_t *end = weight + TILE * size;
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++) low[row] = high[row] = (integers){0};
    do { /* a loop that may not run at all has its sums copied about */
#pragma GCC unroll 4
        for (int64_t i = 0; i < LINE8; i += FED8) {
            __m512i low_weights = load(weight), high_weights = load(weight + FED8 * LANES);
            ask_for(&ahead);
#pragma GCC unroll 16
            for (int row = 0; row < rows; row++) {
                __m512i input = repeat(inputs + row * LINE8 + i);
                low[row] = add_products8(low[row], input, low_weights);
                high[row] = add_products8(high[row], input, high_weights);
            }
            weight += TILE * FED8;
        }
        inputs += rows * LINE8;
    } while (weight < end);
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++) {
        _mm512_storeu_ps(to[row], _mm512_cvtepi32_ps((__m512i)low[row]));
        _mm512_storeu_ps(to[row] + LANES, _mm512_cvtepi32_ps((__m512i)high[row]));
    }
}

/* Each number of rows has a function of its own: in one for all, compilers run out of registers. */
#define FOR_EACH_NUMBER(define) \
    define(1) define(2) define(3) define(4) define(5) define(6) define(7) define(8) define(9) define(10) define(11) define(12)
#define NAMED(rows) tile_of_##rows,
#define NAMED8(rows) tile8_of_##rows,
#define DEFINED(rows)                                                                                                        \
    static __attribute__((noinline)) void tile_of_##rows(                                                                    \
        const bf16 *weight, const bf16 *inputs, int64_t size, Ahead ahead, float to[GROUP][TILE]) {                          \
        tile_of(weight, inputs, size, rows, ahead, to);                                                                      \
    }                                                                                                                        \
    static __attribute__((noinline)) void tile8_of_##rows(                                                                   \
        const int8_t *weight, const uint8_t *inputs, int64_t size, Ahead ahead, float to[GROUP][TILE]) {                     \
        tile8_of(weight, inputs, size, rows, ahead, to);                                                                     \
    }
FOR_EACH_NUMBER(DEFINED)
static void (*const tiles_of[])(const bf16 *, const bf16 *, int64_t, Ahead, float[GROUP][TILE]) = {NULL, FOR_EACH_NUMBER(NAMED)};
static void (*const tiles8_of[])(const int8_t *, const uint8_t *, int64_t, Ahead, float[GROUP][TILE]) = {NULL, FOR_EACH_NUMBER(NAMED8)};

/* What is asked for while group `index` of some rows is computed: by each of the first two a half of the weights of the `next`
 * outputs, by one that is alone its own ones further on. */
static inline Ahead ahead_of(Weight weight, int64_t size, int64_t output, int64_t next, int64_t index) {
    const char *tiles = weight.tiles;
    size *= weight.scales == NULL ? sizeof(bf16) : sizeof(int8_t);
    if (next != output && index < 2) return (Ahead){tiles + (next + index * TILE / 2) * size, 64};
    return (Ahead){tiles + output * size + AHEAD, 128};
}

/* The outputs from `output` on, TILE of them, for the group of `rows` rows from `first` on. */
static void multiply_tile(Weight weight, Inputs inputs, int64_t output, int64_t first, int64_t rows, Ahead ahead,
                          float to[GROUP][TILE]) {
    int64_t size = inputs.size;
    if (weight.scales == NULL) {
        tiles_of[rows]((const bf16 *)weight.tiles + output * size, (const bf16 *)inputs.numbers + first * size, size, ahead, to);
    } else {
        tiles8_of[rows]((const int8_t *)weight.tiles + output * size, (const uint8_t *)inputs.numbers + first * size, size, ahead, to);
        const float *scales = weight.scales + output, *offsets = weight.offsets + output, *row_scales = inputs.row_scales + first;
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < TILE; i++) to[row][i] = row_scales[row] * (to[row][i] * scales[i] - offsets[i]);
    }
    if (weight.biases != NULL)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < TILE; i++) to[row][i] += weight.biases[output + i];
}

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

/* One row into a group of `count`; numbers of 8 bits as half as many. */
static void put_row(const bf16 *numbers, int64_t size, bf16 *group, int64_t row, int64_t count) {
    for (int64_t i = 0; i < size; i += LINE) memcpy(group + i * count + row * LINE, numbers + i, LINE * sizeof *numbers);
}

/* Where inputs of a product are put: room for (threads, rows, size) bfloat16 and (threads, rows), of one thread where rows are
 * many. */
typedef struct {
    bf16 *numbers;
    float *row_scales;
} Room;

/* One row of `rows`, as its weight takes it. */
static void prepare(Weight weight, const bf16 *numbers, int64_t size, int64_t row, int64_t rows, Room room) {
    int64_t group = group_of(rows), first = row / group * group, count = least(group, rows - first);
    if (weight.scales == NULL) {
        put_row(numbers, size, room.numbers + first * size, row - first, count);
        return;
    }
    uint8_t rounded[size];
    room.row_scales[row] = round_row(numbers, size, rounded);
    put_row((const bf16 *)rounded, size / 2, room.numbers + first * size / 2, row - first, count);
}

static inline Room own_room(Room room, Part part, int64_t rows, int64_t size) {
    return (Room){room.numbers + part.room * rows * size, room.row_scales + part.room * rows};
}

static Inputs inputs_for(Weight weight, const bf16 *numbers, int64_t rows, int64_t size, Room room) {
    Part part = part_of(rows);
    room = own_room(room, part, rows, size);
    for (int64_t row = part.first; row < part.end; row++) prepare(weight, numbers + row * size, size, row, rows, room);
    wait_for(part);
    return (Inputs){room.numbers, room.row_scales, size};
}

/* The outputs of a product that a thread computes: the next few that no other has taken, of which it knows the ones after
 * them, too. */
typedef struct {
    int64_t output, end, after; /* of outputs; where the own few end; and the first of the few after them */
    int64_t *taken;
} Turn;

static inline int64_t take(int64_t *taken) { return __atomic_fetch_add(taken, SHARE * TILE, __ATOMIC_RELAXED); }

static inline Turn first_turn(int64_t *taken) {
    int64_t own = take(taken);
    return (Turn){own, own + SHARE * TILE, take(taken), taken};
}

static inline void advance(Turn *turn) {
    turn->output += TILE;
    if (turn->output < turn->end) return;
    turn->output = turn->after;
    turn->end = turn->after + SHARE * TILE;
    turn->after = take(turn->taken);
}

/* The output after this one; of a few rows, and after the last one, itself. */
static inline int64_t next_of(Turn turn, int64_t outputs, int64_t rows) {
    int64_t next = turn.output + TILE < turn.end ? turn.output + TILE : turn.after;
    return rows > GROUP && next < outputs ? next : turn.output;
}

/* What becomes of a product. */
typedef enum {
    STORED,    /* as float32, */
    ADDED,     /* to the float32 that are there, */
    NARROWED,  /* as bfloat16, */
    ACTIVATED, /* as bfloat16 through GELU */
} Ending;

static inline void put_sums(const float sums[TILE], void *to, int64_t at, Ending ending) {
    for (int64_t i = 0; i < TILE; i += LANES) {
        __m512 some = _mm512_loadu_ps(sums + i);
        float *wide = (float *)to + at + i;
        if (ending == ADDED) some += _mm512_loadu_ps(wide);
        if (ending == ACTIVATED) some = gelu(some);
        if (ending == STORED || ending == ADDED)
            _mm512_storeu_ps(wide, some);
        else
            store_narrow((bf16 *)to + at + i, some);
    }
}

/* To (rows, outputs). All threads call it, with the same zero, and share the outputs; none leaves before all have. */
static void multiply(Weight weight, Inputs inputs, int64_t outputs, int64_t rows, void *to, Ending ending, int64_t *taken) {
    int64_t group = group_of(rows);
    for (Turn turn = first_turn(taken); turn.output < outputs; advance(&turn))
        for (int64_t first = 0; first < rows; first += group) {
            float sums[GROUP][TILE];
            int64_t count = least(group, rows - first), output = turn.output;
            Ahead ahead = ahead_of(weight, inputs.size, output, next_of(turn, outputs, rows), first / group);
            multiply_tile(weight, inputs, output, first, count, ahead, sums);
            for (int64_t row = 0; row < count; row++) put_sums(sums[row], to, (first + row) * outputs + output, ending);
        }
#pragma omp barrier
}
