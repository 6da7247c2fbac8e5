/* One decode step of Qwen3's language model for a few rows, in bfloat16: from embeddings to logits in one call.
 *
 * A step reads every weight once and does little with it, so it can be as fast as memory is; as some five hundred
 * operators of torch it takes nearly twice as long. Here all threads go through the layers side by side: each takes the
 * next few outputs of a product until there are none left, and they wait for each other between the products.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16. Where weights are int8, inputs are rounded to 8 bits
 * too, each row with a scale of its own. Weights lie in the order in which they are read, as (outputs / TILE, inputs / FED,
 * TILE, FED): a processor fetches one stream ahead much better than many. Each lane of a register sums one output, and takes
 * FED inputs at a time, which is what the processor's instructions multiply.
 */

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

enum {
    LANES = 16,     /* float32 numbers in a register */
    FED = 2,        /* inputs that a lane takes at a time, */
    FED8 = 4,       /* of 8 bits */
    TILE = 32,      /* outputs, and */
    GROUP = 8,      /* rows, that are computed at a time: their sums stay in registers */
    SHARE = 2,      /* tiles that a thread takes at a time */
    MAX_COLUMNS = 4 /* registers that a head fills: head_dim <= 128 */
};

typedef struct {
    const void *tiles;    /* bfloat16, or int8 where there are scales */
    const float *scales;  /* (outputs,) or NULL */
    const float *offsets; /* (outputs,) what the 128 that makes inputs unsigned adds to each: 128 * scale * sum of weights */
} Weight;

typedef struct {
    Weight qkv;                 /* ((heads + 2 * key_heads) * head_dim, hidden) */
    Weight output;              /* (hidden, heads * head_dim) */
    Weight gate_up;             /* (2 * intermediate, hidden), gates first */
    Weight down;                /* (hidden, intermediate) */
    const bf16 *attention_norm; /* (hidden,) */
    const bf16 *head_norms;     /* (heads + key_heads, head_dim) */
    const bf16 *mlp_norm;       /* (hidden,) */
    bf16 *keys, *values;        /* (slots, key_heads, slot_tokens, head_dim) */
} Layer;

/* hidden, intermediate and the outputs of qkv are multiples of TILE, head_dim of LANES; vocabulary counts what fills up its
 * last tile. Nothing in here checks that, nor the numbers of a Step. */
typedef struct {
    const Layer *layers;
    Weight head;      /* (vocabulary, hidden) */
    const bf16 *norm; /* (hidden,) */
    int64_t layer_count, hidden, intermediate, heads, key_heads, head_dim, vocabulary, slot_tokens;
    float epsilon, head_epsilon, scaling;
} Model;

typedef struct {
    int64_t rows, first_slot; /* first_slot + rows <= slots */
    const int64_t *positions; /* (rows,) where in its slot each token goes: 0 <= position < slot_tokens */
    const float *cosines;     /* (rows, head_dim) */
    const float *sines;       /* (rows, head_dim), the first half negated */
    float *residual;          /* (rows, hidden): the embeddings, and what becomes of them */
    float *logits;            /* (rows, vocabulary) */
    float *projected;         /* (rows, largest number of outputs), scratch, as all that follow */
    bf16 *normed;             /* inputs of products: (threads, rows, hidden) */
    bf16 *attended;           /* (rows, heads * head_dim) */
    bf16 *gated;              /* (rows, intermediate) */
    float *scores;            /* (threads, slot_tokens) */
    uint8_t *rounded;         /* (threads, rows, largest number of inputs) */
    float *row_scales;        /* (threads, rows) */
} Step;

/* Inputs of a product, as its weight takes them. */
typedef struct {
    const void *numbers;     /* (rows, size) bfloat16, or unsigned 8 bits where there are scales */
    const float *row_scales; /* (rows,) or NULL */
    int64_t size;
} Inputs;

static inline float wide(bf16 number) {
    uint32_t bits = (uint32_t)number << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline bf16 narrow(float number) { /* to the nearest, of two the even one; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)(bits >> 16 | 0x40);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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

static inline float norm_factor(const float *numbers, int64_t size, float epsilon) {
    float squares[LANES] = {0};
    for (int64_t i = 0; i < size; i += LANES)
        for (int64_t lane = 0; lane < LANES; lane++) squares[lane] += numbers[i + lane] * numbers[i + lane];
    float sum = 0;
    for (int64_t lane = 0; lane < LANES; lane++) sum += squares[lane];
    return 1 / sqrtf(sum / (float)size + epsilon);
}

static void normalise(const float *residual, const bf16 *weight, float epsilon, int64_t rows, int64_t size, bf16 *to) {
    for (int64_t row = 0; row < rows; row++, residual += size, to += size) {
        float factor = norm_factor(residual, size, epsilon);
        for (int64_t i = 0; i < size; i++) to[i] = narrow(residual[i] * factor * wide(weight[i]));
    }
}

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

/* The outputs from `output` on, TILE of them, for `rows` rows from `first` on. */
static void multiply_tile(Weight weight, Inputs inputs, int64_t output, int64_t first, int64_t rows, float to[GROUP][TILE]) {
    int64_t size = inputs.size;
    if (weight.scales == NULL) {
        const bf16 *tiles = (const bf16 *)weight.tiles + output * size;
        const bf16 *numbers = (const bf16 *)inputs.numbers + first * size;
        FOR_EACH_NUMBER(tile_of, tiles, numbers, size, rows, to)
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

/* What each thread rounds for itself, where it has to be: that is faster than to wait for another. */
static Inputs inputs_for(Weight weight, const bf16 *numbers, int64_t rows, int64_t size, uint8_t *rounded, float *row_scales) {
    if (weight.scales == NULL) return (Inputs){numbers, NULL, size};
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = numbers + row * size;
        float largest = 1e-8f, nothing = 0; /* but NaN where a number is not finite */
        for (int64_t i = 0; i < size; i++) {
            float magnitude = fabsf(wide(from[i]));
            largest = magnitude > largest ? magnitude : largest;
            nothing += 0 * magnitude;
        }
        for (int64_t i = 0; i < size; i++) {
            float steps = nothing == 0 ? rintf(wide(from[i]) * (127 / largest)) : 0;
            rounded[row * size + i] = (uint8_t)(128 + (int)steps);
        }
        row_scales[row] = largest / 127 + nothing;
    }
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
                for (int64_t i = 0; i < TILE; i++)
                    to[i] = narrow(gates[row][i] / (1 + expf(-gates[row][i])) * values[row][i]);
            }
        }
}

/* Normalise a head and turn it by its token's position. */
static void rotate(const float *head, const bf16 *weight, const float *cosines, const float *sines, int64_t size,
                   float epsilon, float scale, bf16 *to) {
    float factor = scale * norm_factor(head, size, epsilon);
    int64_t half = size / 2;
    for (int64_t i = 0; i < size; i++) {
        int64_t other = i < half ? i + half : i - half;
        to[i] = narrow(factor * (head[i] * wide(weight[i]) * cosines[i] + head[other] * wide(weight[other]) * sines[i]));
    }
}

static void softmax(float *scores, int64_t size) {
    float highest = scores[0], sum = 0;
    for (int64_t i = 1; i < size; i++) highest = scores[i] > highest ? scores[i] : highest; /* fmaxf would be a call */
    for (int64_t i = 0; i < size; i++) sum += scores[i] = expf(scores[i] - highest);
    for (int64_t i = 0; i < size; i++) scores[i] /= sum;
}

/* Values weighted by scores, in one pass over them. Inlined for each number of columns, registers that a head fills. */
static inline __attribute__((always_inline)) void weigh(
    const bf16 *values, const float *scores, int64_t length, int64_t head_dim, int columns, bf16 *to) {
    __m512 even[MAX_COLUMNS], odd[MAX_COLUMNS]; /* a register of values holds pairs */
    for (int column = 0; column < columns; column++) even[column] = odd[column] = _mm512_setzero_ps();
    for (int64_t token = 0; token < length; token++) {
        __m512 score = _mm512_set1_ps(scores[token]);
        for (int column = 0; column < columns; column++) {
            int64_t at = 2 * LANES * column;
            __m512i pairs = load_some(values + token * head_dim + at, head_dim - at);
            __m512i high = _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000));
            even[column] = _mm512_fmadd_ps(score, _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), even[column]);
            odd[column] = _mm512_fmadd_ps(score, _mm512_castsi512_ps(high), odd[column]);
        }
    }
    for (int column = 0; column < columns; column++) {
        float evens[LANES], odds[LANES];
        _mm512_storeu_ps(evens, even[column]);
        _mm512_storeu_ps(odds, odd[column]);
        for (int64_t i = 2 * LANES * column, pair = 0; i < head_dim && pair < LANES; i += 2, pair++) {
            to[i] = narrow(evens[pair]);
            to[i + 1] = narrow(odds[pair]);
        }
    }
}

static void attend_head(const bf16 *query, const bf16 *keys, const bf16 *values, int64_t length, int64_t head_dim,
                        float *scores, bf16 *to) {
    for (int64_t token = 0; token < length; token++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < head_dim; i += 2 * LANES) {
            __m512i key = load_some(keys + token * head_dim + i, head_dim - i);
            sum = add_products(sum, load_some(query + i, head_dim - i), key);
        }
        scores[token] = _mm512_reduce_add_ps(sum);
    }
    softmax(scores, length);
    switch ((head_dim + 2 * LANES - 1) / (2 * LANES)) {
        case 1: weigh(values, scores, length, head_dim, 1, to); break;
        case 2: weigh(values, scores, length, head_dim, 2, to); break;
        case 3: weigh(values, scores, length, head_dim, 3, to); break;
        default: weigh(values, scores, length, head_dim, MAX_COLUMNS, to);
    }
}

/* Keys and values of the new tokens go into the cache, and each of their heads looks at all that its slot has. */
static void attend(const Model *model, const Layer *layer, const Step *step, float *scores) {
    int64_t size = model->head_dim, group = model->heads / model->key_heads;
    int64_t outputs = (model->heads + 2 * model->key_heads) * size;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < step->rows * model->key_heads; item++) {
        int64_t row = item / model->key_heads, key_head = item % model->key_heads, position = step->positions[row];
        const float *projected = step->projected + row * outputs;
        const float *cosines = step->cosines + row * size, *sines = step->sines + row * size;
        int64_t slot = ((step->first_slot + row) * model->key_heads + key_head) * model->slot_tokens * size;
        bf16 *keys = layer->keys + slot, *values = layer->values + slot;
        int64_t key_at = model->heads + key_head;
        rotate(projected + key_at * size, layer->head_norms + key_at * size, cosines, sines, size, model->head_epsilon, 1,
               keys + position * size);
        const float *value = projected + (key_at + model->key_heads) * size;
        for (int64_t i = 0; i < size; i++) values[position * size + i] = narrow(value[i]);
        for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
            bf16 *to = step->attended + (row * model->heads + head) * size;
            bf16 query[size];
            rotate(projected + head * size, layer->head_norms + head * size, cosines, sines, size, model->head_epsilon,
                   model->scaling, query);
            attend_head(query, keys, values, position + 1, size, scores, to);
        }
    }
}

/* What library.py checks before it uses this library: a number that rises when the meaning of anything here changes, the
 * sizes of what is passed, and TILE. */
const int64_t decode_step_interface[] = {2, sizeof(Layer), sizeof(Model), sizeof(Step), TILE};

/* Each product, and attend, ends when all threads are done with it. residual is read by normalise, and next written two
 * products later; what is named by threads in a Step is each one's own. So nothing is written that another thread still reads. */
void decode_step(const Model *model, const Step *step, int threads) {
    int64_t rows = step->rows, hidden = model->hidden, inner = model->heads * model->head_dim;
    int64_t intermediate = model->intermediate, projections = inner + 2 * model->key_heads * model->head_dim;
    int64_t widest = inner > intermediate ? inner : intermediate;
    if (hidden > widest) widest = hidden;
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = omp_get_thread_num();
        bf16 *normed = step->normed + thread * rows * hidden;
        float *scores = step->scores + thread * model->slot_tokens, *row_scales = step->row_scales + thread * rows;
        uint8_t *rounded = step->rounded + thread * rows * widest;
        Inputs inputs;
        for (const Layer *layer = model->layers; layer < model->layers + model->layer_count; layer++) {
            normalise(step->residual, layer->attention_norm, model->epsilon, rows, hidden, normed);
            inputs = inputs_for(layer->qkv, normed, rows, hidden, rounded, row_scales);
            multiply(layer->qkv, inputs, projections, rows, step->projected, 0);
            attend(model, layer, step, scores);
            inputs = inputs_for(layer->output, step->attended, rows, inner, rounded, row_scales);
            multiply(layer->output, inputs, hidden, rows, step->residual, 1);
            normalise(step->residual, layer->mlp_norm, model->epsilon, rows, hidden, normed);
            inputs = inputs_for(layer->gate_up, normed, rows, hidden, rounded, row_scales);
            multiply_gated(layer->gate_up, inputs, intermediate, rows, step->gated);
            inputs = inputs_for(layer->down, step->gated, rows, intermediate, rounded, row_scales);
            multiply(layer->down, inputs, hidden, rows, step->residual, 1);
        }
        normalise(step->residual, model->norm, model->epsilon, rows, hidden, normed);
        inputs = inputs_for(model->head, normed, rows, hidden, rounded, row_scales);
        multiply(model->head, inputs, model->vocabulary, rows, step->logits, 0);
    }
}

/* One product: numbers (rows, size) to (rows, outputs). Scratch: (threads, rows, size) and (threads, rows). */
void multiply_rows(const Weight *weight, const bf16 *numbers, int64_t size, int64_t outputs, int64_t rows, float *to,
                   uint8_t *rounded, float *row_scales, int threads) {
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = omp_get_thread_num();
        uint8_t *own = rounded + thread * rows * size;
        multiply(*weight, inputs_for(*weight, numbers, rows, size, own, row_scales + thread * rows), outputs, rows, to, 0);
    }
}
