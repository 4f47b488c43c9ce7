-- The paper's figures are those of its Table 1.
with paper (model, accuracy_lift) as (
    values ('last_pin', 0.0), ('decay_average', 0.25), ('k_means_oracle', 0.98), ('oracle', 1.40)
)

select
    a.dt,
    a.model,
    a.accuracy,
    a.accuracy / nullif(base.accuracy, 0) - 1 as accuracy_lift,
    paper.accuracy_lift::double as paper_accuracy_lift,
    a.actions
from {{ source('evaluation', 'next_action') }} as a
left join {{ source('evaluation', 'next_action') }} as base on a.dt = base.dt and base.model = 'last_pin'
left join paper on a.model = paper.model
where a.dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
