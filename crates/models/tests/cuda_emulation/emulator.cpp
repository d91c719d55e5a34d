// Runs the CUDA kernels on the CPU, block after block: the threads of a block are fibers that take turns at
// barriers and shuffles.
//
// Reads launches from standard input and answers each with the buffers that it wrote. Each launch runs twice,
// with blocks, warps and threads in opposite orders, every warp running ahead as far as it may, and must give
// the same bytes: a missing barrier, or two threads that write one place, shows. A barrier that not all
// threads reach ends the program. Buffers have exactly their size and dynamic shared memory starts as NaN, so
// that an address sanitizer and the comparison of results see what a kernel should not read. Arithmetic and
// indexing are proved here, the GPU is not.
#include "kernels.cu"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <vector>

[[noreturn]] static void fail(const std::string &why) {
    std::fprintf(stderr, "emulated kernel: %s\n", why.c_str());
    std::exit(1);
}

// ---- the threads of a block

enum class State { Runs, AtBarrier, AtShuffle, Done };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(32 * 1024);
    State state;
};

Index threadIdx, blockIdx, blockDim, gridDim;
uint64_t emulator_slots[2][1024];
unsigned emulator_shuffles[1024];
static std::vector<Fiber> fibers(1024);
static ucontext_t scheduler;
static std::vector<float> dynamic_shared;
static std::function<void()> body;

float *emulator_dynamic_shared() { return dynamic_shared.data(); }

static void wait_in(State state) {
    Fiber &self = fibers[threadIdx.x];
    self.state = state;
    swapcontext(&self.context, &scheduler);
}

void __syncthreads() { wait_in(State::AtBarrier); }
void emulator_synchronise_warp() { wait_in(State::AtShuffle); }

static void run_body() {
    body();
    fibers[threadIdx.x].state = State::Done;
}

static bool all_in(unsigned from, unsigned to, State state) {
    return std::all_of(fibers.begin() + from, fibers.begin() + to, [=](const Fiber &f) { return f.state == state; });
}

static void release(unsigned from, unsigned to) {
    for (unsigned i = from; i < to; i++) {
        fibers[i].state = State::Runs;
    }
}

/// Runs a warp as far as it goes alone: to a barrier of the block, or to its end.
static void run_warp(unsigned first, bool backwards) {
    do {
        release(first, first + WARP);
        for (unsigned turn = 0; turn < WARP; turn++) {
            unsigned i = first + (backwards ? WARP - 1 - turn : turn);
            threadIdx = {i, 0, 0};
            swapcontext(&scheduler, &fibers[i].context);
        }
    } while (all_in(first, first + WARP, State::AtShuffle));
    if (!all_in(first, first + WARP, State::AtBarrier) && !all_in(first, first + WARP, State::Done)) {
        fail("the threads of a warp wait at different places");
    }
}

static void run_block(bool backwards) {
    unsigned threads = blockDim.x;
    for (unsigned i = 0; i < threads; i++) {
        emulator_shuffles[i] = 0;
        Fiber &fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_body, 0);
    }
    do {
        for (unsigned turn = 0; turn < threads; turn += WARP) {
            run_warp(backwards ? threads - WARP - turn : turn, backwards);
        }
    } while (all_in(0, threads, State::AtBarrier));
    if (!all_in(0, threads, State::Done)) {
        fail("not all threads reach a barrier");
    }
}

static void run_grid(bool backwards) {
    size_t blocks = size_t(gridDim.x) * gridDim.y;
    for (size_t turn = 0; turn < blocks; turn++) {
        size_t block = backwards ? blocks - 1 - turn : turn;
        blockIdx = {unsigned(block % gridDim.x), unsigned(block / gridDim.x), 0};
        std::fill(dynamic_shared.begin(), dynamic_shared.end(), NAN);
        run_block(backwards);
    }
}

// ---- launches

/// One argument: a number, or a buffer that the kernel reads or writes. Type: f, u, d; a buffer that is
/// written: F, U, D.
struct Argument {
    char type;
    bool is_buffer;
    std::vector<char> bytes;

    bool written() const { return type < 'a'; }
};

/// Hands arguments to a kernel in order, each checked against the parameter's type.
struct Arguments {
    std::vector<Argument> &list;
    size_t next = 0;

    template <typename T> T take() {
        if (next == list.size()) {
            fail("too few arguments");
        }
        Argument &argument = list[next++];
        using Pointee = std::remove_pointer_t<T>;
        using Value = std::remove_const_t<Pointee>;
        char type = std::is_same_v<Value, float> ? 'f' : std::is_same_v<Value, unsigned> ? 'u' : 'd';
        bool writes = std::is_pointer_v<T> && !std::is_const_v<Pointee>;
        char expected = writes ? type - 'a' + 'A' : type;
        if (argument.type != expected || argument.is_buffer != std::is_pointer_v<T>) {
            fail("argument " + std::to_string(next) + ": the kernel takes " + expected + ", the launch gives " + argument.type);
        }
        if constexpr (std::is_pointer_v<T>) {
            return reinterpret_cast<T>(argument.bytes.data());
        } else {
            T value;
            std::memcpy(&value, argument.bytes.data(), sizeof(T));
            return value;
        }
    }
};

using Kernel = std::function<void(std::vector<Argument> &)>;

/// Makes a kernel callable with a list of arguments: sets `body`, which every thread runs.
template <typename... Parameters> Kernel callable(void (*kernel)(Parameters...)) {
    return [kernel](std::vector<Argument> &list) {
        Arguments arguments{list};
        std::tuple<Parameters...> values{arguments.take<Parameters>()...};
        if (arguments.next != list.size()) {
            fail("too many arguments");
        }
        body = [=] { std::apply(kernel, values); };
    };
}

#define KERNEL(name) {#name, callable(name)}
#define ATTENTION_KERNELS(width) KERNEL(attention_##width), KERNEL(attention_backward_queries_##width), KERNEL(attention_backward_keys_##width)

static const std::map<std::string, Kernel> kernels = {
    ATTENTION_KERNELS(32), ATTENTION_KERNELS(64), ATTENTION_KERNELS(128), ATTENTION_KERNELS(256),
    KERNEL(activate), KERNEL(activate_backward), KERNEL(adamw), KERNEL(add), KERNEL(add_rows_at), KERNEL(add_to_rows),
    KERNEL(argmax_rows), KERNEL(cap), KERNEL(cap_backward), KERNEL(copy_columns), KERNEL(cross_entropy),
    KERNEL(cross_entropy_gradient), KERNEL(gated), KERNEL(gated_backward), KERNEL(gather_rows), KERNEL(layer_norm),
    KERNEL(layer_norm_backward), KERNEL(layer_norm_spreads), KERNEL(norm_weight_gradient), KERNEL(rms_norm),
    KERNEL(rms_norm_backward), KERNEL(rms_norm_inverses), KERNEL(rotate), KERNEL(scale), KERNEL(scatter_rows),
    KERNEL(sum_columns), KERNEL(sum_of_doubles), KERNEL(sum_of_squares),
};

static bool read_bytes(void *to, size_t count) { return std::fread(to, 1, count, stdin) == count; }

static uint32_t read_number() {
    uint32_t number;
    if (!read_bytes(&number, sizeof number)) {
        fail("a launch ends early");
    }
    return number;
}

static std::vector<char> read_block() {
    std::vector<char> bytes(read_number());
    if (!bytes.empty() && !read_bytes(bytes.data(), bytes.size())) {
        fail("a launch ends early");
    }
    return bytes;
}

static std::vector<Argument> run(const Kernel &kernel, std::vector<Argument> arguments, bool backwards) {
    kernel(arguments);
    run_grid(backwards);
    return arguments;
}

/// A launch: name, grid, threads, bytes of shared memory, arguments (type, whether a buffer, bytes). The
/// answer: the written buffers.
int main() {
    uint32_t name_size;
    while (read_bytes(&name_size, sizeof name_size)) {
        std::string name(name_size, ' ');
        read_bytes(&name[0], name_size);
        auto kernel = kernels.find(name);
        if (kernel == kernels.end()) {
            fail("there is no kernel " + name);
        }
        gridDim = {read_number(), read_number(), 1};
        blockDim = {read_number(), 1, 1};
        if (blockDim.x == 0 || blockDim.x % WARP != 0 || blockDim.x > fibers.size() || gridDim.x == 0 || gridDim.y == 0 ||
            gridDim.y > 65535) {
            fail(name + ": a grid of " + std::to_string(gridDim.x) + " x " + std::to_string(gridDim.y) + " blocks of " +
                 std::to_string(blockDim.x) + " threads");
        }
        dynamic_shared = std::vector<float>(read_number() / sizeof(float));
        std::vector<Argument> arguments(read_number());
        for (Argument &argument : arguments) {
            argument.type = char(read_number());
            argument.is_buffer = read_number();
            argument.bytes = read_block();
        }
        std::vector<Argument> forwards = run(kernel->second, arguments, false);
        std::vector<Argument> backwards = run(kernel->second, arguments, true);
        for (size_t i = 0; i < forwards.size(); i++) {
            if (!forwards[i].written()) {
                continue;
            }
            if (forwards[i].bytes != backwards[i].bytes) {
                fail(name + ": the result depends on the order of the threads");
            }
            std::fwrite(forwards[i].bytes.data(), 1, forwards[i].bytes.size(), stdout);
        }
        std::fflush(stdout);
    }
}
