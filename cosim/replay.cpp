// Bare Verilator: the simulation of a recording (format: cosim/recording.py) without cocotb, without Python, without callbacks.
//
//   replay RECORDING
//
// At every mark it compares bench.status with the recording, prints the seconds since the last mark (or since the start), elapsed
// and of CPU time, as a line and waits for a line of input, if there is one. The loop is that of cocotb's verilator.cpp.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_vpi.h"

static uint64_t now = 0;  // simulated time [ps]

double sc_time_stamp() { return now; }

template <typename... Arguments>
[[noreturn]] static void fail(const char* format, Arguments... arguments) {
    std::fprintf(stderr, format, arguments...);
    std::fputc('\n', stderr);
    std::exit(1);
}

struct Head {
    uint64_t time;
    uint8_t kind, after;
    uint16_t place;
    uint32_t size;
};
static_assert(sizeof(Head) == 16);
enum { NAME, SIGNAL, MEMORY, MARK };

class Recording {
public:
    explicit Recording(const char* path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) fail("replay: cannot read %s", path);
        content.assign(std::istreambuf_iterator<char>(file), {});
        next();
    }

    // Do what is recorded for this time, before or after the evaluation.
    void perform(bool after) {
        while (!ended && head.time == now && head.after == after) {
            perform(content.data() + at);
            at += head.size;
            next();
        }
        if (!ended && head.time < now) fail("replay: nothing happens at %lu ps, but a record is of that time", head.time);
    }

    bool ended = false;

private:
    std::vector<char> content;
    size_t at = 0;
    Head head{};
    std::vector<vpiHandle> handles;
    int marks = 0;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    std::clock_t cpu_start = std::clock();

    void next() {
        ended = content.size() - at < sizeof head;
        if (ended) return;
        std::memcpy(&head, &content[at], sizeof head);
        at += sizeof head;
        ended = content.size() - at < head.size;
    }

    void perform(char* bytes) {
        const size_t words = head.size / 4;
        if (head.kind == NAME) {
            const std::string name(bytes, head.size);
            handles.push_back(vpi_handle_by_name(const_cast<PLI_BYTE8*>(name.c_str()), nullptr));
            if (!handles.back()) fail("replay: the simulation has no visible %s", name.c_str());
        } else if (head.kind == SIGNAL) {
            std::vector<t_vpi_vecval> vector(words);
            for (size_t k = 0; k < words; k++) std::memcpy(&vector[k].aval, bytes + 4 * k, 4);
            s_vpi_value value{};
            value.format = vpiVectorVal;
            value.value.vector = vector.data();
            vpi_put_value(handles.at(head.place), &value, nullptr, vpiNoDelay);
        } else if (head.kind == MEMORY) {
            PLI_INT32 where[2];
            std::memcpy(where, bytes, sizeof where);
            s_vpi_arrayvalue value{};
            value.format = vpiRawTwoStateVal;
            value.value.rawvals = bytes + sizeof where;
            vpi_put_value_array(handles.at(head.place), &value, where, where[1]);
        } else {
            mark(bytes, words);
        }
    }

    void mark(const char* bytes, size_t words) {
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
        const double cpu = double(std::clock() - cpu_start) / CLOCKS_PER_SEC;
        s_vpi_value value{};
        value.format = vpiVectorVal;
        vpi_get_value(handles.at(0), &value);
        for (size_t k = 0; k < words; k++) {
            uint32_t recorded;
            std::memcpy(&recorded, bytes + 4 * k, 4);
            const uint32_t found = value.value.vector[k].aval;
            if (found != recorded)
                fail("replay: not the simulation recorded: at mark %d, %lu ps, word %zu of bench.status is %08x, recorded was %08x",
                     marks, now, k, found, recorded);
        }
        marks++;
        std::printf("%.9f %.9f\n", passed.count(), cpu);
        std::fflush(stdout);
        for (int c = 0; c != '\n' && c != EOF;) c = std::getchar();
        start = std::chrono::steady_clock::now();
        cpu_start = std::clock();
    }
};

int main(int argc, char** argv) {
    if (argc != 2) fail("usage: replay RECORDING");
    Verilated::commandArgs(argc, argv);
    Verilated::fatalOnVpiError(false);
    const auto top = std::make_unique<Vtop>("");
    Recording recording(argv[1]);
    while (true) {
        recording.perform(false);
        do {
            top->eval_step();
            VerilatedVpi::clearEvalNeeded();
            recording.perform(true);
        } while (VerilatedVpi::evalNeeded());
        top->eval_end_step();
        if (recording.ended) break;
        if (!top->eventsPending()) fail("replay: the simulation stands still at %lu ps", now);
        now = top->nextTimeSlot();
    }
    return 0;
}
