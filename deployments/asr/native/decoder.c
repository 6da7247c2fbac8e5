/* Qwen3's language model for the CPU, from embeddings to logits in one call.
 *
 * A decode step reads every weight once and does little with it, so it can be as fast as memory is; as some five hundred
 * operators of torch it takes nearly twice as long. Here all threads go through the layers side by side: each takes the
 * next few outputs of a product until there are none left, and they wait for each other between the products.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16 or, where weights are int8, 8 bits.
 */

#include "slots.h"

/* What a pass through all layers needs besides its batch. */
typedef struct {
    int64_t wanted_count;
    const int64_t *wanted; /* the tokens of the batch, in order, whose logits are */
    float *logits;         /* (wanted, vocabulary) */
    float *residual;       /* (tokens, hidden): the embeddings, and what becomes of them */
    float *projected;      /* (tokens, (heads + 2 * key_heads) * head_dim), the batch's, scratch as all that follow */
    bf16 *gated;           /* (tokens, intermediate) */
    int64_t *taken;        /* a zero for each product */
    Room room;             /* of (threads, tokens, largest number of inputs); of one thread where tokens are many, see Part */
} Pass;

/* What library.py checks before it uses this library: a number that rises when the meaning of anything here changes, the
 * sizes of what is passed, and of what is laid out for it. */
const int64_t decoder_interface[] = {
    5, sizeof(Layer), sizeof(Model), sizeof(Piece), sizeof(Batch), sizeof(Pass), TILE, GROUP, LINE, BLOCK};

/* The residual, normalised, for a product. */
static Inputs normalised_for(Weight weight, const float *residual, const bf16 *norm, float epsilon, int64_t rows, int64_t size,
                             Room room) {
    Part part = part_of(rows);
    room = own_room(room, part, rows, size);
    for (int64_t row = part.first; row < part.end; row++) {
        bf16 normed[size];
        normalise(residual + row * size, norm, epsilon, size, normed);
        prepare(weight, normed, size, row, rows, room);
    }
    wait_for(part);
    return (Inputs){room.numbers, room.row_scales, size};
}

/* silu(gates) * values of a feed-forward part, gates and values multiplied side by side. */
static void multiply_gated(Weight weight, Inputs inputs, int64_t outputs, int64_t rows, bf16 *gated, int64_t *taken) {
    int64_t group = group_of(rows);
    for (Turn turn = first_turn(taken); turn.output < outputs; advance(&turn))
        for (int64_t first = 0; first < rows; first += group) {
            float gates[GROUP][TILE], values[GROUP][TILE];
            int64_t count = least(group, rows - first), output = turn.output, next = next_of(turn, outputs, rows);
            Ahead ahead = ahead_of(weight, inputs.size, output, next, first / group);
            multiply_tile(weight, inputs, output, first, count, ahead, gates);
            ahead = ahead_of(weight, inputs.size, outputs + output, outputs + next, first / group);
            multiply_tile(weight, inputs, outputs + output, first, count, ahead, values);
            for (int64_t row = 0; row < count; row++) {
                bf16 *to = gated + (first + row) * outputs + output;
                for (int64_t i = 0; i < TILE; i += LANES)
                    store_narrow(to + i, silu(_mm512_loadu_ps(gates[row] + i)) * _mm512_loadu_ps(values[row] + i));
            }
        }
#pragma omp barrier
}

/* Only the wanted tokens go on. One thread moves them, and all wait for it. */
static void keep_wanted(const Pass *pass, float *residual, int64_t hidden, bf16 *attended, int64_t inner) {
#pragma omp single
    for (int64_t i = 0; i < pass->wanted_count; i++) {
        memmove(residual + i * hidden, residual + pass->wanted[i] * hidden, hidden * sizeof *residual);
        memmove(attended + i * inner, attended + pass->wanted[i] * inner, inner * sizeof *attended);
    }
}

/* Each product, and attend, ends when all threads are done with it. residual is read by normalised_for, and next written two
 * products later; what is named by threads is each one's own, or is waited for. So nothing is written that another thread
 * still reads. */
void decode(const Model *model, const Batch *batch, const Pass *pass, int threads) {
    int64_t hidden = model->hidden, inner = model->heads * model->head_dim, intermediate = model->intermediate;
    int64_t projections = inner + 2 * model->key_heads * model->head_dim;
    const Layer *end = model->layers + model->layer_count;
    float *residual = pass->residual, epsilon = model->epsilon;
    Room room = pass->room;
#pragma omp parallel num_threads(threads)
    {
        int64_t tokens = tokens_of(batch);
        int64_t *taken = pass->taken;
        Inputs inputs;
        for (const Layer *layer = model->layers; layer < end; layer++) {
            inputs = normalised_for(layer->qkv, residual, layer->attention_norm, epsilon, tokens, hidden, room);
            multiply(layer->qkv, inputs, projections, tokens, pass->projected, STORED, taken++);
            attend(model, layer, batch);
            if (layer + 1 == end && tokens != pass->wanted_count) {
                keep_wanted(pass, residual, hidden, batch->attended, inner);
                tokens = pass->wanted_count;
            }
            inputs = inputs_for(layer->output, batch->attended, tokens, inner, room);
            multiply(layer->output, inputs, hidden, tokens, residual, ADDED, taken++);
            inputs = normalised_for(layer->gate_up, residual, layer->mlp_norm, epsilon, tokens, hidden, room);
            multiply_gated(layer->gate_up, inputs, intermediate, tokens, pass->gated, taken++);
            inputs = inputs_for(layer->down, pass->gated, tokens, intermediate, room);
            multiply(layer->down, inputs, hidden, tokens, residual, ADDED, taken++);
        }
        inputs = normalised_for(model->head, residual, model->norm, epsilon, tokens, hidden, room);
        multiply(model->head, inputs, model->vocabulary, tokens, pass->logits, STORED, taken++);
    }
}

/* One product: numbers (rows, size) to (rows, outputs). */
void multiply_rows(const Weight *weight, const bf16 *numbers, int64_t size, int64_t outputs, int64_t rows, float *to,
                   const Room *room, int threads) {
    int64_t taken = 0;
#pragma omp parallel num_threads(threads)
    multiply(*weight, inputs_for(*weight, numbers, rows, size, *room), outputs, rows, to, STORED, &taken);
}
