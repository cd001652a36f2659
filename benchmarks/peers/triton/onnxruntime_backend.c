/* A native backend for Triton that runs one model through ONNX Runtime's C interface.
 *
 * The wheel that carries Triton has its Python backend only; this one takes the Python out of the way. It does the
 * least that is right: all requests that Triton batched become one run, and no statistics are kept, so it is no
 * slower than a backend that does more. One input `input` and one output `probabilities`, float32, on the CPU.
 *
 * Both interfaces are tables of functions with fixed signatures and order; what is used of them is declared here.
 * THREADS: of one run, as in the other peers.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Triton's interface for backends */
typedef struct Error Error;
typedef struct Model Model;
typedef struct Instance Instance;
typedef struct TritonRequest TritonRequest;
typedef struct Response Response;
typedef struct Input Input;
typedef struct Output Output;
enum { FP32 = 11, CPU = 0, INTERNAL = 1, FINAL = 1, RELEASE_ALL = 1, MOST_DIMS = 8, MOST_REQUESTS = 1024 };

Error *TRITONSERVER_ErrorNew(int code, const char *text);
void TRITONSERVER_ErrorDelete(Error *);
Error *TRITONBACKEND_ModelRepository(Model *, int *kind, const char **folder);
Error *TRITONBACKEND_ModelVersion(Model *, uint64_t *version);
Error *TRITONBACKEND_ModelInstanceModel(Instance *, Model **);
Error *TRITONBACKEND_ModelInstanceState(Instance *, void **state);
Error *TRITONBACKEND_ModelInstanceSetState(Instance *, void *state);
Error *TRITONBACKEND_RequestInputByIndex(TritonRequest *, uint32_t index, Input **);
Error *TRITONBACKEND_InputProperties(Input *, const char **name, int *type, const int64_t **shape, uint32_t *dims,
                                     uint64_t *size, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(Input *, uint32_t index, const void **bytes, uint64_t *size, int *memory, int64_t *id);
Error *TRITONBACKEND_ResponseNew(Response **, TritonRequest *);
Error *TRITONBACKEND_ResponseOutput(Response *, Output **, const char *name, int type, const int64_t *shape,
                                    uint32_t dims);
Error *TRITONBACKEND_OutputBuffer(Output *, void **bytes, uint64_t size, int *memory, int64_t *id);
Error *TRITONBACKEND_ResponseSend(Response *, uint32_t flags, Error *);
Error *TRITONBACKEND_RequestRelease(TritonRequest *, uint32_t flags);

/* ONNX Runtime's interface: where each function stands in its table */
enum {
    ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10, SET_THREADS = 24,
    TENSOR_OF_DATA = 49, TENSOR_DATA = 51, CPU_MEMORY = 69, RELEASE_STATUS = 93, RELEASE_VALUE = 96, INTERFACE = 16
};
typedef struct {
    void *(*table)(uint32_t version);
} InterfaceOf;
typedef void *(*Call)();
extern const InterfaceOf *OrtGetApiBase(void);
static Call *ort;

typedef struct {
    void *session, *memory;
    char *rows;
    size_t room;
} State;

typedef struct {
    Input *input;
    Response *response;
    int64_t shape[MOST_DIMS];
    uint32_t dims, buffers;
    uint64_t size;
} Part;

static Error *failed(void *status) {
    if (!status) return NULL;
    Error *error = TRITONSERVER_ErrorNew(INTERNAL, (const char *)ort[ERROR_MESSAGE](status));
    ort[RELEASE_STATUS](status);
    return error;
}

#define TRY(step)                      \
    do {                               \
        Error *error_ = (step);        \
        if (error_) return error_;     \
    } while (0)

Error *TRITONBACKEND_ModelInstanceInitialize(Instance *instance) {
    Model *model;
    int kind;
    const char *folder;
    char path[4096];
    void *env, *options;
    State *state = calloc(1, sizeof *state);
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelRepository(model, &kind, &folder));
    snprintf(path, sizeof path, "%s/1/model.onnx", folder);
    ort = (Call *)OrtGetApiBase()->table(INTERFACE);
    TRY(failed(ort[CREATE_ENV](3, "triton", &env)));
    TRY(failed(ort[CREATE_OPTIONS](&options)));
    TRY(failed(ort[SET_THREADS](options, atoi(getenv("THREADS")))));
    TRY(failed(ort[CREATE_SESSION](env, path, options, &state->session)));
    TRY(failed(ort[CPU_MEMORY](0, 0, &state->memory)));
    return TRITONBACKEND_ModelInstanceSetState(instance, state);
}

static Error *look(TritonRequest *request, Part *part) {
    const char *name;
    const int64_t *shape;
    int type;
    TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &part->input));
    TRY(TRITONBACKEND_InputProperties(part->input, &name, &type, &shape, &part->dims, &part->size, &part->buffers));
    if (type != FP32 || part->dims > MOST_DIMS) return TRITONSERVER_ErrorNew(INTERNAL, "the input must be FP32");
    memcpy(part->shape, shape, part->dims * sizeof *shape);
    return NULL;
}

static Error *copy_rows(Part *part, char *to) {
    for (uint32_t i = 0; i < part->buffers; i++) {
        const void *bytes;
        uint64_t size;
        int memory = CPU;
        int64_t id = 0;
        TRY(TRITONBACKEND_InputBuffer(part->input, i, &bytes, &size, &memory, &id));
        memcpy(to, bytes, size);
        to += size;
    }
    return NULL;
}

/* Gathers the rows of all parts and runs them; *answers holds the output until it is released. */
static Error *run(State *state, Part *parts, uint32_t count, void **answers) {
    const char *inputs[] = {"input"}, *outputs[] = {"probabilities"};
    int64_t shape[MOST_DIMS];
    size_t size = 0, at = 0;
    void *tensor;
    memcpy(shape, parts[0].shape, sizeof shape);
    shape[0] = 0;
    for (uint32_t i = 0; i < count; i++) size += parts[i].size, shape[0] += parts[i].shape[0];
    if (size > state->room) state->rows = realloc(state->rows, state->room = size);
    for (uint32_t i = 0; i < count; at += parts[i++].size) TRY(copy_rows(&parts[i], state->rows + at));
    TRY(failed(ort[TENSOR_OF_DATA](state->memory, state->rows, size, shape, (size_t)parts[0].dims, 1, &tensor)));
    *answers = NULL;
    Error *error = failed(ort[RUN](state->session, NULL, inputs, &tensor, (size_t)1, outputs, (size_t)1, answers));
    ort[RELEASE_VALUE](tensor);
    return error;
}

static Error *answer(Part *part, const float *from, int64_t width) {
    int64_t shape[] = {part->shape[0], width}, id = 0;
    uint64_t size = shape[0] * width * sizeof(float);
    int memory = CPU;
    void *to;
    Output *output;
    TRY(TRITONBACKEND_ResponseOutput(part->response, &output, "probabilities", FP32, shape, 2));
    TRY(TRITONBACKEND_OutputBuffer(output, &to, size, &memory, &id));
    memcpy(to, from, size);
    return NULL;
}

enum { CLASSES = 10 };

Error *TRITONBACKEND_ModelInstanceExecute(Instance *instance, TritonRequest **requests, const uint32_t count) {
    static __thread Part parts[MOST_REQUESTS];
    State *state;
    void *answers = NULL;
    float *values = NULL;
    if (count > MOST_REQUESTS) return TRITONSERVER_ErrorNew(INTERNAL, "too many requests in one batch");
    TRY(TRITONBACKEND_ModelInstanceState(instance, (void **)&state));
    for (uint32_t i = 0; i < count; i++) {
        TRY(look(requests[i], &parts[i]));
        TRY(TRITONBACKEND_ResponseNew(&parts[i].response, requests[i]));
    }
    Error *error = run(state, parts, count, &answers);
    if (!error) error = failed(ort[TENSOR_DATA](answers, &values));
    for (uint32_t i = 0; i < count; i++) {
        Error *one = error ? error : answer(&parts[i], values, CLASSES);
        TRITONBACKEND_ResponseSend(parts[i].response, FINAL, one);
        TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL);
        if (values) values += parts[i].shape[0] * CLASSES;
        if (one && !error) TRITONSERVER_ErrorDelete(one);
    }
    if (error) TRITONSERVER_ErrorDelete(error);
    if (answers) ort[RELEASE_VALUE](answers);
    return NULL;
}
