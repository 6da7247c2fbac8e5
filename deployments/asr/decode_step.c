/* One decode step of Qwen3's language model for a few rows, in bfloat16: from embeddings to logits in one call.
 *
 * A step reads every weight once and does little with it, so it can be as fast as memory is; as some five hundred
 * operators of torch it takes nearly twice as long. Here all threads go through the layers side by side: each takes the
 * next few outputs of a product until there are none left, and they wait for each other between the products.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16. Weights lie in the order in which they are read, as
 * (outputs / TILE, inputs / 2, TILE, 2): a processor fetches one stream ahead much better than many. Each lane of a register
 * sums one output, of pairs of inputs, which is what the processor's instruction multiplies.
 */

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

enum {
    LANES = 16,     /* float32 numbers, or pairs of bfloat16, in a register */
    TILE = 32,      /* outputs, and */
    GROUP = 8,      /* rows, that are computed at a time: their sums stay in registers */
    SHARE = 2,      /* tiles that a thread takes at a time */
    MAX_COLUMNS = 4 /* registers that a head fills: head_dim <= 128 */
};

typedef struct {
    const bf16 *attention_norm; /* (hidden,) */
    const bf16 *qkv;            /* ((heads + 2 * key_heads) * head_dim, hidden), as all weights of products */
    const bf16 *head_norms;     /* (heads + key_heads, head_dim) */
    const bf16 *output;         /* (hidden, heads * head_dim) */
    const bf16 *mlp_norm;       /* (hidden,) */
    const bf16 *gate_up;        /* (2 * intermediate, hidden), gates first */
    const bf16 *down;           /* (hidden, intermediate) */
    bf16 *keys, *values;        /* (slots, key_heads, slot_tokens, head_dim) */
} Layer;

/* hidden, intermediate and the outputs of qkv are multiples of TILE, head_dim of LANES; vocabulary counts what fills up its
 * last tile. Nothing in here checks that, nor the numbers of a Step. */
typedef struct {
    const Layer *layers;
    const bf16 *norm; /* (hidden,) */
    const bf16 *head; /* (vocabulary, hidden) */
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
} Step;

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

static inline __m512bh load(const bf16 *numbers) { return (__m512bh)_mm512_loadu_si512(numbers); }

static inline __m512i load_some(const bf16 *numbers, int64_t count) { /* zeros after `count` numbers */
    return _mm512_maskz_loadu_epi16(count < 2 * LANES ? ((__mmask32)1 << count) - 1 : (__mmask32)-1, numbers);
}

static inline __m512bh repeat(const bf16 *pair) {
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return (__m512bh)_mm512_set1_epi32(bits);
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
    for (int64_t i = 0; i < size; i += 2) {
        __m512bh low_weights = load(weight + TILE * i), high_weights = load(weight + TILE * i + TILE);
        for (int row = 0; row < rows; row++) {
            __m512bh input = repeat(inputs + row * size + i);
            low[row] = _mm512_dpbf16_ps(low[row], low_weights, input);
            high[row] = _mm512_dpbf16_ps(high[row], high_weights, input);
        }
    }
    for (int row = 0; row < rows; row++) {
        _mm512_storeu_ps(to[row], low[row]);
        _mm512_storeu_ps(to[row] + LANES, high[row]);
    }
}

static void tile(const bf16 *weight, const bf16 *inputs, int64_t size, int64_t rows, float to[GROUP][TILE]) {
    switch (rows) {
        case 1: tile_of(weight, inputs, size, 1, to); break;
        case 2: tile_of(weight, inputs, size, 2, to); break;
        case 3: tile_of(weight, inputs, size, 3, to); break;
        case 4: tile_of(weight, inputs, size, 4, to); break;
        case 5: tile_of(weight, inputs, size, 5, to); break;
        case 6: tile_of(weight, inputs, size, 6, to); break;
        case 7: tile_of(weight, inputs, size, 7, to); break;
        default: tile_of(weight, inputs, size, 8, to);
    }
}

static inline int64_t group_of(int64_t first, int64_t rows) { return rows - first < GROUP ? rows - first : GROUP; }

/* To (rows, outputs), or added to what is there. All threads call it and share the outputs; none leaves before all are done. */
static void multiply(const bf16 *weight, const bf16 *inputs, int64_t size, int64_t outputs, int64_t rows, float *to, int add) {
#pragma omp for schedule(dynamic, SHARE)
    for (int64_t output = 0; output < outputs; output += TILE)
        for (int64_t first = 0; first < rows; first += GROUP) {
            float sums[GROUP][TILE];
            int64_t count = group_of(first, rows);
            tile(weight + output * size, inputs + first * size, size, count, sums);
            for (int64_t row = 0; row < count; row++) {
                float *at = to + (first + row) * outputs + output;
                for (int64_t i = 0; i < TILE; i++) at[i] = add ? at[i] + sums[row][i] : sums[row][i];
            }
        }
}

/* silu(gates) * values of a feed-forward part, gates and values multiplied side by side. */
static void multiply_gated(const bf16 *weight, const bf16 *inputs, int64_t size, int64_t outputs, int64_t rows, bf16 *gated) {
#pragma omp for schedule(dynamic, SHARE)
    for (int64_t output = 0; output < outputs; output += TILE)
        for (int64_t first = 0; first < rows; first += GROUP) {
            float gates[GROUP][TILE], values[GROUP][TILE];
            int64_t count = group_of(first, rows);
            tile(weight + output * size, inputs + first * size, size, count, gates);
            tile(weight + (outputs + output) * size, inputs + first * size, size, count, values);
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
            sum = _mm512_dpbf16_ps(sum, (__m512bh)load_some(query + i, head_dim - i), (__m512bh)key);
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

/* What native.py checks before it uses this library: a number that rises when the meaning of anything here changes, the
 * sizes of what is passed, and TILE. */
const int64_t decode_step_interface[] = {1, sizeof(Layer), sizeof(Model), sizeof(Step), TILE};

/* Each product, and attend, ends when all threads are done with it. residual is read by normalise, and next written two
 * products later; normed and scores are each thread's own. So nothing is written that another thread still reads. */
void decode_step(const Model *model, const Step *step, int threads) {
    int64_t rows = step->rows, hidden = model->hidden, inner = model->heads * model->head_dim;
    int64_t projections = inner + 2 * model->key_heads * model->head_dim;
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = omp_get_thread_num();
        bf16 *normed = step->normed + thread * rows * hidden; /* each computes it: that is faster than waiting for it */
        float *scores = step->scores + thread * model->slot_tokens;
        for (const Layer *layer = model->layers; layer < model->layers + model->layer_count; layer++) {
            normalise(step->residual, layer->attention_norm, model->epsilon, rows, hidden, normed);
            multiply(layer->qkv, normed, hidden, projections, rows, step->projected, 0);
            attend(model, layer, step, scores);
            multiply(layer->output, step->attended, inner, hidden, rows, step->residual, 1);
            normalise(step->residual, layer->mlp_norm, model->epsilon, rows, hidden, normed);
            multiply_gated(layer->gate_up, normed, hidden, model->intermediate, rows, step->gated);
            multiply(layer->down, step->gated, model->intermediate, hidden, rows, step->residual, 1);
        }
        normalise(step->residual, model->norm, model->epsilon, rows, hidden, normed);
        multiply(model->head, normed, hidden, model->vocabulary, rows, step->logits, 0);
    }
}

/* One product: inputs (rows, size) to (rows, outputs). */
void multiply_rows(const bf16 *weight, const bf16 *inputs, int64_t size, int64_t outputs, int64_t rows, float *to,
                   int threads) {
#pragma omp parallel num_threads(threads)
    multiply(weight, inputs, size, outputs, rows, to, 0);
}
