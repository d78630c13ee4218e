// Fibers, barriers and launches. See emulator.h.
#include "common.cuh"

#include <algorithm>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SANITIZED 1
#else
#define SANITIZED 0
#endif
// Elsewhere the system's own contexts do, which are slower: `EMULATOR_PORTABLE` asks for them.
#if defined(__x86_64__) && defined(__ELF__) && !defined(EMULATOR_PORTABLE)
#define OWN_SWITCH 1
#else
#define OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace emulator {

namespace {

constexpr size_t STACK = 128 << 10;

// A place to run at: a stack and what was kept when it was left.
struct Place {
#if OWN_SWITCH
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

#if OWN_SWITCH
extern "C" void chelsea_emulator_switch(void** from, void* to);
// Keeps the registers that a function has to leave alone on the stack, and changes stacks.
asm(R"(
.text
.globl chelsea_emulator_switch
.hidden chelsea_emulator_switch
.type chelsea_emulator_switch, @function
chelsea_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size chelsea_emulator_switch, . - chelsea_emulator_switch
)");
#endif

// A copy that was asked for, and in which of its thread's groups.
struct Copy {
  void* to;
  const void* from;
  uint32_t group;
};

struct Fiber {
  Thread thread;
  std::vector<Copy> copies;
  uint32_t groups;  // that were ended
  Place place;
  char* stack;
  bool done;
};

struct Barrier {
  uint32_t members, arrived;
  uint64_t passed;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  Barrier all;
  Place scheduler;
  Fiber* running;
  std::vector<uint32_t> order;  // of fibers in this round
  size_t at;                    // who of them runs
  const Kernel* kernel;
  const void* arguments;
  uint64_t progress;  // barriers passed and threads ended
  const void* scheduler_stack;
  size_t scheduler_stack_size;
};

thread_local Block* running_block;
// Stacks of fibers, kept from launch to launch.
thread_local std::vector<std::unique_ptr<char[]>> stacks;

// The next fiber of the round; none at its end. With a sanitizer, which is told of every stack, the scheduler is always next.
Fiber* next_of(Block& block) {
  while (!SANITIZED && ++block.at < block.order.size()) {
    Fiber& fiber = block.fibers[block.order[block.at]];
    if (!fiber.done) return &fiber;
  }
  return nullptr;
}

void leave(bool last = false) {
  Block& block = *running_block;
  Fiber& fiber = *block.running;
  Fiber* next = next_of(block);
  Place& to = next ? next->place : block.scheduler;
  if (next) {
    block.running = next;
    current = &next->thread;
  }
#if SANITIZED
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, block.scheduler_stack, block.scheduler_stack_size);
#else
  (void)last;
#endif
#if OWN_SWITCH
  chelsea_emulator_switch(&fiber.place.stack_pointer, to.stack_pointer);
#else
  swapcontext(&fiber.place.context, &to.context);
#endif
#if SANITIZED
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void resume(Block& block, Fiber& fiber) {
  block.running = &fiber;
  current = &fiber.thread;
#if SANITIZED
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, STACK);
#endif
#if OWN_SWITCH
  chelsea_emulator_switch(&block.scheduler.stack_pointer, fiber.place.stack_pointer);
#else
  swapcontext(&block.scheduler.context, &fiber.place.context);
#endif
#if SANITIZED
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void entry() {
#if SANITIZED
  __sanitizer_finish_switch_fiber(nullptr, &running_block->scheduler_stack, &running_block->scheduler_stack_size);
#endif
  running_block->kernel->call(running_block->arguments);
  running_block->running->done = true;
  running_block->progress++;
  leave(true);
}

void start(Fiber& fiber, uint32_t index) {
#if SANITIZED
  // Of what ran there before, and never returned.
  __asan_unpoison_memory_region(fiber.stack, STACK);
#endif
  fiber.thread.index = index;
  fiber.thread.turn = 0;
  fiber.copies.clear();
  fiber.groups = 0;
  fiber.done = false;
#if OWN_SWITCH
  void** top = (void**)(fiber.stack + STACK - 64);
  *--top = nullptr;  // so that the stack is aligned as after a call
  *--top = (void*)entry;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.place.stack_pointer = top;
#else
  getcontext(&fiber.place.context);
  fiber.place.context.uc_stack.ss_sp = fiber.stack;
  fiber.place.context.uc_stack.ss_size = STACK;
  fiber.place.context.uc_link = nullptr;
  makecontext(&fiber.place.context, entry, 0);
#endif
}

void wait_at(Barrier& barrier) {
  uint64_t passed = barrier.passed;
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    barrier.passed++;
    running_block->progress++;
    return;
  }
  while (barrier.passed == passed) leave();
}

Kernel*& kernels() {
  static Kernel* first = nullptr;
  return first;
}

// Who is next: as they are numbered, the other way round, or by lot.
struct Schedule {
  uint32_t kind, state;
  void arrange(std::vector<uint32_t>& order) {
    if (kind < 2) return;
    for (size_t i = order.size(); i > 1; i--) {
      state = state * 1664525u + 1013904223u;
      std::swap(order[i - 1], order[(state >> 8) % i]);
    }
  }
  std::vector<uint32_t> first(uint32_t count) {
    std::vector<uint32_t> order(count);
    for (uint32_t i = 0; i < count; i++) order[i] = kind == 1 ? count - 1 - i : i;
    arrange(order);
    return order;
  }
};

}  // namespace

thread_local Thread* current;
thread_local uint32_t block[3], threads;
thread_local unsigned char* shared_memory;

Kernel::Kernel(const char* name, uint32_t bytes, void (*call)(const void*))
    : name(name), bytes(bytes), call(call), next(kernels()) {
  kernels() = this;
}

void sync_block() { wait_at(running_block->all); }
void sync_warp() { wait_at(running_block->warps[current->index / 32]); }
void put_down(const void* bytes, size_t count) {
  // Who is a step ahead writes to the other place; nobody is two ahead, since all have to come.
  current->turn ^= 1;
  memcpy(current->slots[current->turn], bytes, count);
  sync_warp();
}
void copy_later(void* to, const void* from) {
  Fiber& fiber = *running_block->running;
  fiber.copies.push_back({to, from, fiber.groups});
}
void end_group() { running_block->running->groups++; }
void wait_for_groups(uint32_t left) {
  Fiber& fiber = *running_block->running;
  auto waits = [&](const Copy& copy) { return copy.group + left >= fiber.groups; };
  for (const Copy& copy : fiber.copies)
    if (!waits(copy)) memcpy(copy.to, copy.from, 16);
  fiber.copies.erase(std::remove_if(fiber.copies.begin(), fiber.copies.end(), [&](const Copy& copy) { return !waits(copy); }),
                     fiber.copies.end());
}
const unsigned char* put_by(uint32_t index) {
  // A lane that a partial warp has not: its own, as on a GPU where what is read is undefined.
  uint32_t at = current->index / 32 * 32 + index;
  const Thread& thread = at < running_block->fibers.size() ? running_block->fibers[at].thread : *current;
  return (const unsigned char*)thread.slots[current->turn];
}

}  // namespace emulator

using namespace emulator;

// How a launch ended.
enum { FINE = 0, UNKNOWN = 1, ARGUMENTS = 2, SHAPE = 3, STUCK = 4 };

// Runs a kernel. `schedule` is 0 (in order), 1 (the other way round), or another number: by lots that follow from it.
extern "C" int chelsea_emulator_launch(const char* name, const uint32_t* grid, uint32_t block_threads, uint32_t shared_bytes,
                                       const void* arguments, uint32_t argument_bytes, uint32_t schedule_number) {
  const Kernel* kernel = kernels();
  while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
  if (!kernel) return UNKNOWN;
  if (kernel->bytes != argument_bytes) return ARGUMENTS;
  const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  if (block_threads == 0 || block_threads > 1024 || blocks == 0 || blocks > 1u << 24 || shared_bytes > 48 << 10) return SHAPE;
  Block state;
  state.kernel = kernel;
  state.arguments = arguments;
  state.progress = 0;
  state.fibers.resize(block_threads);
  while (stacks.size() < block_threads) stacks.emplace_back(new char[STACK + 64]);
  for (uint32_t i = 0; i < block_threads; i++) {
    char* start = stacks[i].get();
    state.fibers[i].stack = start + (64 - (uintptr_t)start % 64) % 64;
  }
  state.warps.resize((block_threads + 31) / 32);
  running_block = &state;
  threads = block_threads;
  Schedule schedule{schedule_number, schedule_number * 2654435761u + 1};
  int result = FINE;
  for (uint32_t id : schedule.first((uint32_t)blocks)) {
    block[0] = id % grid[0];
    block[1] = id / grid[0] % grid[1];
    block[2] = id / grid[0] / grid[1];
    // Of its exact size, so that a sanitizer sees what lies beyond.
    std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
    std::fill_n(shared.get(), shared_bytes, 0xff);
    shared_memory = shared.get();
    state.all = {block_threads, 0, 0};
    for (uint32_t w = 0; w < state.warps.size(); w++) state.warps[w] = {std::min(32u, block_threads - 32 * w), 0, 0};
    for (uint32_t i = 0; i < block_threads; i++) start(state.fibers[i], i);
    state.order = schedule.first(block_threads);
    for (bool any = true; any && result == FINE;) {
      uint64_t before = state.progress;
      any = false;
      // Who runs passes the turn on within a round.
      for (state.at = 0; state.at < state.order.size(); state.at++) {
        Fiber& fiber = state.fibers[state.order[state.at]];
        if (fiber.done) continue;
        any = true;
        resume(state, fiber);
      }
      if (any && state.progress == before) result = STUCK;
      schedule.arrange(state.order);
    }
    if (result != FINE) break;
  }
  running_block = nullptr;
  current = nullptr;
  shared_memory = nullptr;
  return result;
}
