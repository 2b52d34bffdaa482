// A backend of npm's statsd: what it aggregated in each interval becomes a line of JSON in the file `dumpFile`.
const fs = require("fs");

exports.init = function (startupTime, config, events) {
    events.on("flush", function (timestamp, metrics) {
        const kept = {
            counters: metrics.counters,
            gauges: metrics.gauges,
            timers: metrics.timers,
            timer_counters: metrics.timer_counters,
        };
        fs.appendFileSync(config.dumpFile, JSON.stringify(kept) + "\n");
    });
    return true;
};
